#include "data/input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "base/file.h"
#include "data/text_stream.h"
#include "nibble/error.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class InputTest : public ::testing::Test {
 protected:
  fs::path Write(const std::string& name, const std::string& text) {
    WriteTextFile(folder_ / name, text);
    return folder_ / name;
  }

  static std::string All(const Input& input) {
    TextStream stream(input);
    std::string text;
    for (auto chunk = stream.NextChunk(); !chunk.empty(); chunk = stream.NextChunk()) text += chunk;
    return text;
  }

  // A named pipe that gives `text` once.
  fs::path Pipe(const std::string& name, const std::string& text) {
    const fs::path path = folder_ / name;
    EXPECT_EQ(::mkfifo(path.c_str(), 0600), 0);
    writers_.emplace_back([path, text] {
      FILE* file = std::fopen(path.c_str(), "w");
      std::fwrite(text.data(), 1, text.size(), file);
      std::fclose(file);
    });
    return path;
  }

  testing::TemporaryDirectory temporary_;
  const fs::path folder_ = temporary_.path();
  std::vector<std::jthread> writers_;
};

// Standard input comes from `path`, of which `skipped` bytes are read already.
class StandardInput {
 public:
  StandardInput(const fs::path& path, off_t skipped) : saved_(::dup(STDIN_FILENO)) {
    FILE* file = std::fopen(path.c_str(), "r");
    ::dup2(::fileno(file), STDIN_FILENO);
    std::fclose(file);
    ::lseek(STDIN_FILENO, skipped, SEEK_SET);
  }
  ~StandardInput() {
    ::dup2(saved_, STDIN_FILENO);
    ::close(saved_);
  }

 private:
  int saved_;
};

TEST_F(InputTest, EveryReaderBeginsAtTheFront) {
  const std::string text = "one\n" + std::string(300'000, 'x');
  const Input file(Write("a.txt", text));
  const Input pipe(Pipe("pipe", text));
  for (const Input* input : {&file, &pipe}) {
    EXPECT_EQ(All(*input), text);
    EXPECT_EQ(All(*input), text);
    EXPECT_EQ(input->Peek(1, 2), "ne");
    EXPECT_EQ(input->Peek(-2, 9), "xx");
    EXPECT_EQ(input->Peek(-999'999, 3), "one");
    EXPECT_EQ(input->Peek(300'004, 3), "");
  }
}

TEST_F(InputTest, ADashIsStandardInput) {
  const fs::path path = Write("a.txt", "one\ntwo\n");
  for (const off_t skipped : {0, 4}) {
    const StandardInput standard_input(path, skipped);
    const Input input("-");
    EXPECT_EQ(input.name(), "standard input");
    EXPECT_EQ(All(input), skipped == 0 ? "one\ntwo\n" : "two\n");
    EXPECT_EQ(All(input), skipped == 0 ? "one\ntwo\n" : "two\n");
  }
}

TEST_F(InputTest, WhatIsNoInputIsNamed) {
  const auto message = [](ErrorCode code, const fs::path& path) -> std::string {
    try {
      Input{path};
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "nothing thrown";
  };
  fs::create_directory(folder_ / "x.json");
  EXPECT_THAT(message(ErrorCode::kIo, folder_ / "x.json"),
              HasSubstr("x.json: expected a file, found a folder"));
  EXPECT_THAT(message(ErrorCode::kNotFound, folder_ / "absent"), HasSubstr("absent: cannot open"));
  EXPECT_THAT(message(ErrorCode::kNotFound, ""), HasSubstr("cannot open"));
}

TEST_F(InputTest, TheNameSaysTheFormat) {
  const auto format = [&](const std::string& name, Format otherwise) {
    return FormatOf(Input(Write(name, "x")), otherwise);
  };
  for (const Format other : {Format::kText, Format::kJson}) {
    EXPECT_EQ(format("a.jsonl", other), Format::kJson);
    EXPECT_EQ(format("a.JSON.gz", other), Format::kJson);
    EXPECT_EQ(format("a.ndjson.zst", other), Format::kJson);
    EXPECT_EQ(format("a.csv", other), Format::kCsv);
    EXPECT_EQ(format("a.json.tsv", other), Format::kTsv);
    EXPECT_EQ(format("a.parquet", other), Format::kParquet);
    EXPECT_EQ(format("a.json.txt", other), Format::kText);
    EXPECT_EQ(format("a", other), other);
    EXPECT_EQ(format("a.gz", other), other);
  }
  EXPECT_EQ(format("a.v2", Format::kText), Format::kText);
  fs::create_directory(folder_ / "x.json.d");
  EXPECT_EQ(format("x.json.d/prompts", Format::kText), Format::kText);
  for (const char* name : {"a.v2", "a.jsonl.xz", "a.parquet.gz"}) {
    try {
      format(name, Format::kJson);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_THAT(error.what(), HasSubstr(std::string(name) + ": the format goes by the name"));
    }
  }
}

TEST_F(InputTest, WithoutAnExtensionTheBytesShowParquet) {
  const std::string parquet =
      ReadTextFile(fs::path(kSourceDir) / "tests/golden/rows/rows.none.parquet");
  EXPECT_EQ(FormatOf(Input(Write("a", parquet)), Format::kJson), Format::kParquet);
  EXPECT_EQ(FormatOf(Input(Pipe("pipe", parquet)), Format::kText), Format::kParquet);
  EXPECT_EQ(FormatOf(Input(Write("a", "PAR1 is a word")), Format::kText), Format::kText);
  EXPECT_EQ(FormatOf(Input(Write("a.txt", parquet)), Format::kJson), Format::kText);
}

}  // namespace
}  // namespace nibble
