#include "base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <vector>

#include "nibble/error.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class FileTest : public ::testing::Test {
 protected:
  fs::path Path(const char* name) const { return directory_.path() / name; }

  std::vector<std::string> Listing() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_.path())) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  template <typename Action>
  static std::string ErrorOf(ErrorCode code, Action action) {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "no error";
  }

 private:
  testing::TemporaryDirectory directory_;
};

TEST_F(FileTest, ReadsBackWhatWasWritten) {
  const std::string text("line\n\0\xff tail", 12);
  WriteTextFile(Path("a"), text);
  EXPECT_EQ(ReadTextFile(Path("a")), text);
  const MappedFile mapped(Path("a"));
  const std::span<const std::byte> bytes = mapped.bytes();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), text);
}

TEST_F(FileTest, UpdatesAFileInPlace) {
  File file = File::OpenToUpdate(Path("a"));
  file.Reserve(10);
  EXPECT_EQ(file.Size(), 10);
  file.WriteAt(std::as_bytes(std::span("cd", 2)), 2);
  File moved;
  EXPECT_FALSE(moved.is_open());
  moved = std::move(file);
  moved.Flush();
  std::array<std::byte, 3> bytes;
  moved.ReadAt(bytes, 1);
  EXPECT_THAT(bytes, ElementsAre(std::byte{0}, std::byte{'c'}, std::byte{'d'}));
  moved.Reserve(4);  // is no shorter for it
  moved.Reserve(0);
  EXPECT_EQ(moved.Size(), 10);
  moved.Truncate(4);
  moved.Close();
  EXPECT_FALSE(moved.is_open());
  EXPECT_EQ(ReadTextFile(Path("a")), std::string("\0\0cd", 4));
  EXPECT_EQ(File::OpenToUpdate(Path("a")).Size(), 4);  // keeps what is there
}

TEST_F(FileTest, AppendsAndReadsOn) {
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { File::OpenToAppend(Path("a")); }),
              HasSubstr("cannot open for writing"));
  WriteTextFile(Path("a"), "one ");
  File::OpenToAppend(Path("a")).Write("two");
  File file = File::Open(Path("a"));
  std::array<std::byte, 5> bytes;
  EXPECT_EQ(file.Read(bytes), 5u);
  EXPECT_EQ(file.Read(bytes), 2u);
  EXPECT_EQ(file.Read(bytes), 0u);
}

TEST_F(FileTest, CreatesOnlyWhatIsNotThere) {
  File first = File::CreateNew(Path("a"), "the file");
  EXPECT_TRUE(first.is_open());
  EXPECT_FALSE(File::CreateNew(Path("a"), "the file").is_open());
  EXPECT_THAT(
      ErrorOf(ErrorCode::kNotFound, [&] { File::CreateNew(Path("no/folder"), "the file"); }),
      HasSubstr("the file: cannot create"));
}

TEST_F(FileTest, ANamelessFileLeavesNoTrace) {
  File file = File::CreateNameless(Path(""), "a test");
  EXPECT_TRUE(Listing().empty());
  file.Write("text");
  EXPECT_EQ(file.Size(), 4);
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { File::CreateNameless(Path("no"), "a test"); }),
              AllOf(HasSubstr(Path("no").string()), HasSubstr("a test: cannot create")));
}

// That a file is too short is no failure of a system call: errno has nothing to say about it.
TEST_F(FileTest, SaysWhereAFileEndsTooSoon) {
  WriteTextFile(Path("a"), "123456");
  const File file = File::Open(Path("a"));
  std::array<std::byte, 4> bytes;
  file.ReadAt(bytes, 2);
  errno = ENOSPC;
  const std::string message = ErrorOf(ErrorCode::kIo, [&] { file.ReadAt(bytes, 3); });
  EXPECT_THAT(message, HasSubstr(Path("a").string() + ": ends at byte 6, where 1 more"));
  EXPECT_THAT(message, Not(HasSubstr(std::strerror(ENOSPC))));
}

TEST_F(FileTest, OneAtATimeHoldsALock) {
  WriteTextFile(Path("a"), "");
  {
    File first = File::OpenToAppend(Path("a"));
    File second = File::OpenToAppend(Path("a"));
    EXPECT_TRUE(first.Lock());
    EXPECT_TRUE(first.Lock());
    EXPECT_FALSE(second.Lock());
  }
  EXPECT_TRUE(File::OpenToAppend(Path("a")).Lock());
}

// Folders of /proc know no fsync, like those of some network file systems.
TEST_F(FileTest, ForgivesFoldersThatCannotBeFlushed) {
  FlushFolder(Path(""));
  FlushFolder("/proc/self");
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { FlushFolder(Path("absent")); }),
              HasSubstr(Path("absent").string()));
  WriteTextFile(Path("file"), "");
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { FlushFolder(Path("file")); }),
              HasSubstr("Not a directory"));
}

TEST_F(FileTest, MapsAnEmptyFile) {
  WriteTextFile(Path("empty"), "");
  const MappedFile mapped(Path("empty"));
  EXPECT_TRUE(mapped.bytes().empty());
  mapped.WillNeed(mapped.bytes());
  mapped.DontNeed(mapped.bytes());
  mapped.ExpectJumps(true);
  EXPECT_EQ(ReadTextFile(Path("empty")), "");
}

TEST_F(FileTest, FollowsSymbolicLinks) {
  WriteTextFile(Path("blob"), "text");
  fs::create_symlink("blob", Path("link"));
  EXPECT_EQ(MappedFile(Path("link")).bytes().size(), 4u);
}

TEST_F(FileTest, MovesAMapping) {
  WriteTextFile(Path("a"), "aaaa");
  WriteTextFile(Path("b"), "bb");
  MappedFile a(Path("a"));
  MappedFile b(std::move(a));
  EXPECT_EQ(b.bytes().size(), 4u);
  b = MappedFile(Path("b"));
  EXPECT_EQ(b.bytes().size(), 2u);
  EXPECT_EQ(b.path(), Path("b"));
}

TEST_F(FileTest, ReadsDroppedPagesAgain) {
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += static_cast<char>('a' + i % 26);
  WriteTextFile(Path("a"), text);
  const MappedFile mapped(Path("a"));
  const auto same = [&] {
    return std::string_view(reinterpret_cast<const char*>(mapped.bytes().data()), text.size()) ==
           text;
  };
  EXPECT_TRUE(same());
  mapped.DontNeed(mapped.bytes());
  EXPECT_TRUE(same());
  mapped.DontNeed(mapped.bytes().subspan(5000, 3));  // no whole page inside
  mapped.WillNeed(mapped.bytes().subspan(5000, 3));
  EXPECT_TRUE(same());
  for (const bool jumps : {true, false}) {
    mapped.ExpectJumps(jumps);
    mapped.DontNeed(mapped.bytes());
    EXPECT_TRUE(same());
  }
}

TEST_F(FileTest, SaysWhatCannotBeRead) {
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { MappedFile{Path("absent")}; }),
              HasSubstr(Path("absent").string()));
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { ReadTextFile(Path("absent")); }),
              HasSubstr("No such file"));
  EXPECT_THAT(ErrorOf(ErrorCode::kIo, [&] { ReadTextFile(Path("")); }),
              HasSubstr("found a folder"));
  ASSERT_EQ(::mkfifo(Path("pipe").c_str(), 0600), 0);  // must not wait for a writer
  EXPECT_THAT(ErrorOf(ErrorCode::kIo, [&] { ReadTextFile(Path("pipe")); }),
              HasSubstr("expected a regular file"));
}

// What git checks out where git-lfs is not installed, with either end of line.
TEST_F(FileTest, NamesAPointerThatStandsForAFile) {
  const std::string first = "version https://git-lfs.github.com/spec/v1";
  for (const char* end : {"\n", "\r\n"}) {
    WriteTextFile(Path("a"), first + end + "oid sha256:4d7a" + end + "size 12338560" + end);
    for (const auto& open : std::vector<std::function<void()>>{[&] { MappedFile{Path("a")}; },
                                                               [&] { ReadTextFile(Path("a")); }}) {
      const std::string message = ErrorOf(ErrorCode::kInvalidData, open);
      EXPECT_THAT(message, HasSubstr(Path("a").string() + ": a Git LFS pointer, not the file"));
      EXPECT_THAT(message, HasSubstr("git lfs pull"));
    }
  }
  for (const std::string& text :
       {first.substr(0, 20), "# " + first, first + std::string(1000, 'x')}) {
    WriteTextFile(Path("a"), text);
    EXPECT_EQ(ReadTextFile(Path("a")), text);
  }
}

TEST_F(FileTest, ReadsFilesThatHideTheirSize) {
  EXPECT_THAT(ReadTextFile("/proc/self/status"), HasSubstr("VmHWM"));
}

TEST_F(FileTest, ShowsNothingBeforeCommit) {
  WriteTextFile(Path("a"), "old");
  {
    AtomicFile file(Path("a"));
    file.Write("new");
    EXPECT_EQ(ReadTextFile(Path("a")), "old");
    EXPECT_EQ(Listing().size(), 2u);
    file.Commit();
    EXPECT_EQ(ReadTextFile(Path("a")), "new");
  }
  EXPECT_THAT(Listing(), ElementsAre("a"));
}

TEST_F(FileTest, LeavesNothingWithoutCommit) {
  {
    AtomicFile file(Path("a"));
    file.Write("half");
  }
  EXPECT_TRUE(Listing().empty());
}

TEST_F(FileTest, HonoursTheProcessMask) {
  const mode_t mask = ::umask(027);
  WriteTextFile(Path("a"), "x");
  ::umask(mask);
  struct stat status{};
  ASSERT_EQ(::stat(Path("a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST_F(FileTest, KnowsItsTemporariesByName) {
  AtomicFile file(Path("model.partial"));
  ASSERT_EQ(Listing().size(), 1u);
  EXPECT_TRUE(IsAtomicFileTemporary(Listing()[0])) << Listing()[0];
  for (const char* other :
       {"", ".partial", "a.partial", "1-2.partial", ".1-2.partial", "a.1-.partial", "a.-2.partial",
        "a.12.partial", "a.1-2.partial.x", "a1-2.partial"}) {
    EXPECT_FALSE(IsAtomicFileTemporary(other)) << other;
  }
}

TEST_F(FileTest, TellsTwoWritersApart) {
  AtomicFile first(Path("a"));
  AtomicFile second(Path("a"));
  first.Write("first");
  second.Write("second");
  second.Commit();
  first.Commit();
  EXPECT_EQ(ReadTextFile(Path("a")), "first");
}

TEST_F(FileTest, SaysWhatCannotBeWritten) {
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { WriteTextFile(Path("no/such/folder"), "x"); }),
              HasSubstr("cannot create"));
  fs::create_directory(Path("folder"));
  EXPECT_THAT(ErrorOf(ErrorCode::kIo, [&] { WriteTextFile(Path("folder"), "x"); }),
              HasSubstr("cannot rename"));
  EXPECT_THAT(Listing(), ElementsAre("folder"));  // no temporary stays
}

// A limit on the size of files simulates a full disk: both make write() fail in the same way.
TEST_F(FileTest, RunsOutOfSpaceWithoutATrace) {
  const auto write_too_much = [&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string message = ErrorOf(ErrorCode::kResourceExhausted, [&] {
      WriteTextFile(Path("big"), std::string(3 << 20, 'x'));
    });
    const bool clean = Listing().empty();
    ::_exit(clean && message.find("cannot write") != std::string::npos ? 0 : 1);
  };
  EXPECT_EXIT(write_too_much(), ::testing::ExitedWithCode(0), "");
}

TEST_F(FileTest, KnowsTheFreeSpace) {
  EXPECT_GT(FreeDiskBytes(Path("")), 0);
  EXPECT_THROW(FreeDiskBytes(Path("absent")), Error);
}

TEST_F(FileTest, KnowsWhenAFileWasWrittenTo) {
  WriteTextFile(Path("file"), "a");
  const int64_t before = ModificationTime(Path("file"));
  fs::last_write_time(Path("file"),
                      fs::last_write_time(Path("file")) + std::chrono::nanoseconds(1500));
  EXPECT_EQ(ModificationTime(Path("file")), before + 1500);
  EXPECT_THROW(ModificationTime(Path("absent")), Error);
}

}  // namespace
}  // namespace nibble
