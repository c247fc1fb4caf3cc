#include "checkpoint/checkpoint_writer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "base/file.h"
#include "checkpoint/safetensors.h"
#include "nibble/error.h"
#include "tests/support/temporary_directory.h"

// Stands for a file system that cannot flush folders, while the flag is set: this definition comes
// before that of the C library.
static bool folders_cannot_be_flushed = false;
extern "C" int fsync(int descriptor) {
  struct stat status{};
  if (folders_cannot_be_flushed && ::fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) {
    errno = EINVAL;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fsync, descriptor));
}

namespace nibble {
namespace {

namespace fs = std::filesystem;

class CheckpointWriterTest : public ::testing::Test {
 protected:
  CheckpointWriterTest() {
    for (int u = 0; u < 5; ++u) {
      const std::string prefix = "unit." + std::to_string(u);
      units_.push_back({prefix,
                        {{prefix + ".scale", DType::kBF16, Shape({3, u + 1})},
                         {prefix + ".packed", DType::kI32, Shape({3, 5})},
                         {prefix + ".shape", DType::kI64, Shape({2})}}});
    }
  }

  CheckpointWriterOptions Options(const std::string& name, bool resume = false) const {
    return {.directory = root_ / name,
            .max_shard_bytes = 200,
            .job = {{"bits", 4}, {"seed", 42}},
            .resume = resume};
  }

  // Fills a unit with bytes that depend on its index.
  void Write(CheckpointWriter& writer) const {
    const int64_t unit = writer.num_done();
    std::vector<Tensor> tensors;
    std::vector<TensorView> views;
    for (const TensorPlan& plan : units_[unit].tensors) {
      Tensor tensor(plan.dtype, plan.shape);
      for (int64_t i = 0; i < tensor.view().size_bytes(); ++i) {
        tensor.data()[i] =
            static_cast<std::byte>(17 * unit + 3 * i + static_cast<int64_t>(tensors.size()));
      }
      tensors.push_back(std::move(tensor));
    }
    views.reserve(tensors.size());
    for (const Tensor& tensor : tensors) views.push_back(tensor.view());
    writer.WriteUnit(views, {{"unit", unit}});
  }

  void Finish(CheckpointWriter& writer) const {
    while (writer.num_done() < writer.num_units()) Write(writer);
    writer.Publish({{"config.json", "{}"}});
    writer.Complete();
  }

  std::map<std::string, std::string> Contents(const std::string& name) const {
    std::map<std::string, std::string> contents;
    for (const auto& entry : fs::directory_iterator(root_ / name)) {
      contents[entry.path().filename().string()] = ReadTextFile(entry.path());
    }
    return contents;
  }

  template <typename Action>
  static std::string ErrorOf(ErrorCode code, Action action) {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  }

  testing::TemporaryDirectory temporary_;
  const fs::path root_ = temporary_.path();
  std::vector<UnitPlan> units_;
};

TEST_F(CheckpointWriterTest, NeverSplitsAUnitAndFillsShardsInOrder) {
  const std::vector<ShardPlan> shards = PlanShards(units_, 200);
  ASSERT_GT(shards.size(), 1u);
  int64_t next = 0;
  for (const ShardPlan& shard : shards) {
    EXPECT_EQ(shard.first_unit, next);
    EXPECT_GT(shard.last_unit, shard.first_unit);
    next = shard.last_unit;
  }
  EXPECT_EQ(next, 5);
  EXPECT_EQ(PlanShards(units_, 1).size(), 5u);
  EXPECT_EQ(PlanShards(units_, 1'000'000).front().file, "model.safetensors");
}

TEST_F(CheckpointWriterTest, WritesShardsOurReaderParses) {
  CheckpointWriter writer(Options("out"), units_);
  Finish(writer);
  int64_t tensors = 0;
  for (const ShardPlan& shard : writer.shards()) {
    const MappedFile file(root_ / "out" / shard.file);
    const SafetensorsHeader header =
        ParseSafetensorsHeader(file.bytes(), static_cast<int64_t>(file.bytes().size()), shard.file);
    tensors += static_cast<int64_t>(header.entries.size());
    for (const SafetensorsEntry& entry : header.entries) {
      EXPECT_EQ((header.data_offset + entry.begin) % DTypeSize(entry.dtype), 0) << entry.name;
    }
  }
  EXPECT_EQ(tensors, 15);
  EXPECT_FALSE(fs::exists(root_ / "out" / "nibble-resume.jsonl"));
}

TEST_F(CheckpointWriterTest, ResumedBytesEqualUninterruptedOnes) {
  {
    CheckpointWriter writer(Options("whole"), units_);
    Finish(writer);
  }
  for (int64_t stop = 0; stop <= 5; ++stop) {
    const std::string name = "stop" + std::to_string(stop);
    {
      CheckpointWriter writer(Options(name), units_);
      for (int64_t u = 0; u < stop; ++u) Write(writer);
      if (stop == 5) writer.Publish({{"config.json", "{}"}});  // killed before Complete
    }
    CheckpointWriter writer(Options(name, true), units_);
    EXPECT_EQ(writer.num_done(), stop);
    for (int64_t u = 0; u < stop; ++u) EXPECT_EQ(writer.note(u)["unit"], u);
    Finish(writer);
    EXPECT_EQ(Contents(name), Contents("whole")) << "stopped after " << stop;
  }
}

// A child writes and is killed with SIGKILL after a random time; the next one resumes. This
// includes kills between writing and renaming the small files.
TEST_F(CheckpointWriterTest, SurvivesKillsAtAnyMoment) {
  {
    CheckpointWriter writer(Options("whole"), units_);
    Finish(writer);
  }
  std::mt19937 random(9);
  for (int trial = 0; trial < 8; ++trial) {
    const std::string name = "killed" + std::to_string(trial);
    int kills = 0;
    for (bool done = false; !done;) {
      const pid_t child = ::fork();
      if (child == 0) {
        try {
          CheckpointWriter writer(Options(name, true), units_);
          Finish(writer);
        } catch (...) {
          ::_exit(1);
        }
        ::_exit(0);
      }
      ::usleep(std::uniform_int_distribution<useconds_t>(0, 40'000)(random));
      ::kill(child, SIGKILL);
      int status = 0;
      ::waitpid(child, &status, 0);
      done = WIFEXITED(status);
      if (done) {
        EXPECT_EQ(WEXITSTATUS(status), 0) << name;
      }
      // Killed after the last step: the output is complete.
      const bool complete = fs::exists(root_ / name / "config.json") &&
                            !fs::exists(root_ / name / "nibble-resume.jsonl");
      kills += done ? 0 : 1;
      done = done || complete;
      ASSERT_LT(kills, 1000);
    }
    EXPECT_EQ(Contents(name), Contents("whole")) << "after " << kills << " kills";
  }
}

TEST_F(CheckpointWriterTest, WritesWhereFoldersCannotBeFlushed) {
  for (const bool flag : {false, true}) {
    folders_cannot_be_flushed = flag;
    const std::string name = flag ? "unflushed" : "flushed";
    CheckpointWriter writer(Options(name), units_);
    EXPECT_NO_THROW(Finish(writer));
    folders_cannot_be_flushed = false;
  }
  EXPECT_EQ(Contents("unflushed"), Contents("flushed"));
}

TEST_F(CheckpointWriterTest, ClearsTemporariesOfAKilledProcess) {
  fs::create_directories(root_ / "out");
  std::ofstream(root_ / "out" / "nibble-resume.jsonl.99-0.partial") << "torn";
  CheckpointWriter writer(Options("out", true), units_);
  Finish(writer);
  EXPECT_FALSE(fs::exists(root_ / "out" / "nibble-resume.jsonl.99-0.partial"));
}

TEST_F(CheckpointWriterTest, RefusesAFolderAnotherProcessIsWriting) {
  CheckpointWriter writer(Options("out"), units_);
  EXPECT_NE(
      ErrorOf(ErrorCode::kInvalidArgument, [&] { CheckpointWriter(Options("out", true), units_); })
          .find("another process is writing here"),
      std::string::npos);
}

TEST_F(CheckpointWriterTest, ForgetsALedgerLineCutShort) {
  {
    CheckpointWriter writer(Options("out"), units_);
    Write(writer);
    Write(writer);
  }
  const fs::path ledger = root_ / "out" / "nibble-resume.jsonl";
  fs::resize_file(ledger, fs::file_size(ledger) - 3);
  CheckpointWriter writer(Options("out", true), units_);
  EXPECT_EQ(writer.num_done(), 1);
}

TEST_F(CheckpointWriterTest, RewritesAHeaderThatACrashLeftEmpty) {
  {
    CheckpointWriter writer(Options("out"), units_);
  }
  const ShardPlan first = PlanShards(units_, 200).front();
  std::ofstream(root_ / "out" / (first.file + ".partial"))
      << std::string(static_cast<size_t>(first.size_bytes), '\0');
  CheckpointWriter writer(Options("out", true), units_);
  Finish(writer);
  EXPECT_EQ(Contents("out")[first.file].substr(0, first.header.size()), first.header);
}

TEST_F(CheckpointWriterTest, ReadsBackDoneUnits) {
  CheckpointWriter writer(Options("out"), units_);
  Write(writer);
  EXPECT_EQ(static_cast<int>(writer.Read("unit.0.packed").data()[1]), 3 + 1);
  Write(writer);
  EXPECT_EQ(static_cast<int>(writer.Read("unit.1.packed").data()[1]), 17 + 3 + 1);
}

TEST_F(CheckpointWriterTest, RefusesAFolderThatIsNotItsOwn) {
  std::ofstream(root_ / "notes.txt") << "mine";
  CheckpointWriterOptions options = Options("x");
  options.directory = root_;
  EXPECT_NE(ErrorOf(ErrorCode::kInvalidArgument, [&] { CheckpointWriter(options, units_); })
                .find("not empty"),
            std::string::npos);
  options.resume = true;
  EXPECT_NE(ErrorOf(ErrorCode::kInvalidArgument, [&] { CheckpointWriter(options, units_); })
                .find("no unfinished run"),
            std::string::npos);
  EXPECT_EQ(ReadTextFile(root_ / "notes.txt"), "mine");
}

TEST_F(CheckpointWriterTest, RefusesToMixTwoJobsAndNamesTheDifference) {
  {
    CheckpointWriter writer(Options("out"), units_);
  }
  EXPECT_NE(ErrorOf(ErrorCode::kInvalidArgument, [&] { CheckpointWriter(Options("out"), units_); })
                .find("`resume`"),
            std::string::npos);
  CheckpointWriterOptions other = Options("out", true);
  other.job["seed"] = 43;
  EXPECT_NE(ErrorOf(ErrorCode::kInvalidArgument, [&] { CheckpointWriter(other, units_); })
                .find("seed = 42, now 43"),
            std::string::npos);
}

TEST_F(CheckpointWriterTest, SaysWhatToDoAboutADifferenceThatOptionsDoNotMend) {
  {
    CheckpointWriter writer(Options("out"), units_);
  }
  CheckpointWriterOptions other = Options("out", true);
  other.job["bits"] = 8;
  other.remedies = {{"bits", [](const Json& theirs) { return "go back to " + theirs.dump(); }}};
  EXPECT_NE(ErrorOf(ErrorCode::kInvalidArgument, [&] { CheckpointWriter(other, units_); })
                .find("bits = 4, now 8; go back to 4, or choose an empty output"),
            std::string::npos);
}

TEST_F(CheckpointWriterTest, RefusesALedgerOfAnotherFormat) {
  {
    CheckpointWriter writer(Options("out"), units_);
    Write(writer);
  }
  const fs::path ledger = root_ / "out" / "nibble-resume.jsonl";
  const std::string text = ReadTextFile(ledger);
  const std::string format = R"("format":2,)";
  ASSERT_NE(text.find(format), std::string::npos);
  for (const auto& [other, named] : std::vector<std::pair<std::string, std::string>>{
           {"", "format 1, expected 2"}, {R"("format":3,)", "format 3, expected 2"}}) {
    std::string changed = text;
    changed.replace(changed.find(format), format.size(), other);
    WriteTextFile(ledger, changed);
    const std::string message =
        ErrorOf(ErrorCode::kUnsupported, [&] { CheckpointWriter(Options("out", true), units_); });
    EXPECT_NE(message.find(named), std::string::npos) << message;
    EXPECT_EQ(ReadTextFile(ledger), changed);
  }
}

TEST_F(CheckpointWriterTest, RefusesALedgerThatIsNone) {
  fs::create_directories(root_ / "out");
  std::ofstream(root_ / "out" / "nibble-resume.jsonl") << "[1, 2]\n";
  ErrorOf(ErrorCode::kInvalidData, [&] { CheckpointWriter(Options("out", true), units_); });
}

TEST_F(CheckpointWriterTest, SaysSoWhenTheDiskIsTooSmall) {
  std::vector<UnitPlan> units = {{"huge", {{"huge", DType::kF32, Shape({int64_t{1} << 50})}}}};
  ErrorOf(ErrorCode::kResourceExhausted, [&] { CheckpointWriter(Options("out"), units); });
  EXPECT_FALSE(fs::exists(root_ / "out" / "nibble-resume.jsonl"));
}

TEST_F(CheckpointWriterTest, CopiesCompanionsAndNothingElse) {
  fs::create_directories(root_ / "in");
  fs::create_directories(root_ / "out");
  for (const char* name : {"tokenizer.json", "tokenizer.model", "chat_template.jinja", "LICENSE",
                           "config.json", "model.safetensors", "README.md"}) {
    std::ofstream(root_ / "in" / name) << name << '\0' << "bytes";
  }
  const std::vector<std::string> expected = {"LICENSE", "chat_template.jinja", "tokenizer.json",
                                             "tokenizer.model"};
  EXPECT_EQ(CopyCompanionFiles(root_ / "in", root_ / "out"), expected);
  EXPECT_EQ(Contents("out").size(), 4u);
  EXPECT_EQ(Contents("out")["LICENSE"], Contents("in")["LICENSE"]);
}

}  // namespace
}  // namespace nibble
