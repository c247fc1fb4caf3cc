#include "data/text_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/file.h"
#include "nibble/error.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const fs::path kRows = fs::path(kSourceDir) / "tests/golden/rows";

class TextStreamTest : public ::testing::Test {
 protected:
  fs::path Write(const std::string& name, const std::string& text) {
    WriteTextFile(folder_ / name, text);
    return folder_ / name;
  }

  static std::vector<std::string> Lines(const fs::path& path) {
    TextStream stream{Input(path)};
    std::vector<std::string> lines;
    while (const auto line = stream.NextLine()) lines.emplace_back(*line);
    EXPECT_EQ(stream.line_number(), static_cast<int64_t>(lines.size()));
    return lines;
  }

  static std::string All(const fs::path& path) {
    TextStream stream{Input(path)};
    std::string text;
    for (auto chunk = stream.NextChunk(); !chunk.empty(); chunk = stream.NextChunk()) text += chunk;
    return text;
  }

  testing::TemporaryDirectory temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(TextStreamTest, CutsIntoLines) {
  EXPECT_THAT(Lines(Write("a.txt", "")), IsEmpty());
  EXPECT_THAT(Lines(Write("a.txt", "\n")), ElementsAre(""));
  EXPECT_THAT(Lines(Write("a.txt", "one\n\ntwo")), ElementsAre("one", "", "two"));
  EXPECT_THAT(Lines(Write("a.txt", "\xEF\xBB\xBFone\ntwo\n")), ElementsAre("one", "two"));
}

TEST_F(TextStreamTest, LinesMayBeLongerThanAChunk) {
  const std::string longer(700'001, 'x');
  const std::string even((1 << 18) - 1, 'y');  // its newline ends a chunk
  EXPECT_THAT(Lines(Write("a.txt", even + "\n" + longer + "\nend")),
              ElementsAre(even, longer, "end"));
}

TEST_F(TextStreamTest, ReadsCompressedFilesAsPlainOnes) {
  const std::string plain = All(kRows / "rows.jsonl");
  EXPECT_FALSE(plain.empty());
  EXPECT_EQ(All(kRows / "rows.jsonl.gz"), plain);
  EXPECT_EQ(All(kRows / "rows.jsonl.zst"), plain);
}

TEST_F(TextStreamTest, MembersOfACompressedFileFollowEachOther) {
  const std::string plain = All(kRows / "rows.jsonl");
  for (const char* name : {"rows.jsonl.gz", "rows.jsonl.zst"}) {
    const std::string bytes = ReadTextFile(kRows / name);
    EXPECT_EQ(All(Write(name, bytes + bytes)), plain + plain);
  }
}

TEST_F(TextStreamTest, DamagedCompressedFilesAreNamed) {
  for (const char* name : {"rows.jsonl.gz", "rows.jsonl.zst"}) {
    const std::string bytes = ReadTextFile(kRows / name);
    std::string changed = bytes;
    changed[bytes.size() / 2] = static_cast<char>(changed[bytes.size() / 2] ^ 0x55);
    for (const std::string& damaged : {bytes.substr(0, bytes.size() / 2), changed}) {
      try {
        All(Write(name, damaged));
        ADD_FAILURE() << "nothing thrown";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
        EXPECT_THAT(error.what(), HasSubstr(std::string(name) + ": damaged compressed data"));
      }
    }
  }
}

TEST_F(TextStreamTest, TheBytesTellHowTheyAreCompressed) {
  const std::string plain = All(kRows / "rows.jsonl");
  EXPECT_EQ(All(Write("rows.jsonl", ReadTextFile(kRows / "rows.jsonl.gz"))), plain);
  EXPECT_EQ(All(Write("rows.gz", ReadTextFile(kRows / "rows.jsonl.zst"))), plain);
  EXPECT_EQ(All(Write("rows.jsonl.gz", plain)), plain);
  const std::string skipped("\x5e\x2a\x4d\x18\x03\0\0\0abc", 11);
  EXPECT_EQ(All(Write("a", skipped + ReadTextFile(kRows / "rows.jsonl.zst"))), plain);
  for (const char* short_one : {"", "P", "\x1f", "(", "abc"}) {
    EXPECT_EQ(All(Write("a", short_one)), short_one);
  }
}

TEST_F(TextStreamTest, DropsOneByteOrderMark) {
  EXPECT_EQ(All(Write("a.txt", "\xEF\xBB\xBFone")), "one");
  EXPECT_EQ(All(Write("a.txt", "\xEF\xBB\xBF")), "");
  EXPECT_EQ(All(Write("a.txt", "\xEF\xBB\xBF\xEF\xBB\xBFone")), "\xEF\xBB\xBFone");
  EXPECT_EQ(All(Write("a.txt", "\xEF\xBB")), "\xEF\xBB");
  EXPECT_EQ(All(Write("a.txt", "one\xEF\xBB\xBF")), "one\xEF\xBB\xBF");
}

TEST_F(TextStreamTest, Utf16IsNamed) {
  for (const char* text : {"\xFF\xFEo", "\xFE\xFF"}) {
    try {
      All(Write("a.txt", text));
      ADD_FAILURE() << "nothing thrown";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("a.txt: UTF-16 text; save it as UTF-8"));
    }
  }
}

TEST_F(TextStreamTest, AMissingFileIsNamed) {
  try {
    TextStream stream{Input(folder_ / "absent.txt")};
    ADD_FAILURE() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), HasSubstr("absent.txt"));
  }
}

TEST_F(TextStreamTest, ADirectoryIsNoFile) { EXPECT_THROW(All(folder_), Error); }

TEST_F(TextStreamTest, CharactersComeWithTheirLines) {
  const Input input(Write("a.txt", "a\nb\rc\r\nd\n"));
  CharStream in(input);
  std::vector<std::pair<char, int64_t>> seen;
  for (; in.Peek() >= 0; in.Next()) {
    if (in.Peek() >= 'a') seen.emplace_back(in.Peek(), in.line());
  }
  in.Next();  // nothing happens at the end
  EXPECT_EQ(in.Peek(), -1);
  using Pair = std::pair<char, int64_t>;
  EXPECT_THAT(seen, ElementsAre(Pair('a', 1), Pair('b', 2), Pair('c', 3), Pair('d', 4)));
}

TEST(UncompressedName, DropsOneSuffix) {
  EXPECT_EQ(UncompressedName("a/Rows.JSONL.GZ"), "rows.jsonl");
  EXPECT_EQ(UncompressedName("rows.jsonl"), "rows.jsonl");
  EXPECT_EQ(UncompressedName("rows.json.zst"), "rows.json");
  EXPECT_EQ(UncompressedName("gz"), "gz");
}

}  // namespace
}  // namespace nibble
