#include "data/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using Records = std::vector<std::pair<int64_t, std::vector<std::string>>>;

Records Read(const std::string& text) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "csv_test.csv";
  WriteTextFile(path, text);
  TextStream stream(path);
  Records records;
  ReadCsv(stream, "t.csv", [&](std::vector<std::string> fields, int64_t line) {
    records.emplace_back(line, std::move(fields));
  });
  return records;
}

TEST(Csv, ReadsPlainAndQuotedFields) {
  EXPECT_EQ(Read("a,b\n1,\n\"x, \"\"y\"\"\",z\n"),
            (Records{{1, {"a", "b"}}, {2, {"1", ""}}, {3, {"x, \"y\"", "z"}}}));
}

TEST(Csv, AcceptsWindowsLineEndsAndABlankLine) {
  EXPECT_EQ(Read("\xEF\xBB\xBF"
                 "a,b\r\n\r\n\"1\",2\r\n"),
            (Records{{1, {"a", "b"}}, {3, {"1", "2"}}}));
}

TEST(Csv, KeepsNewlinesInsideQuotesAsTheyAre) {
  EXPECT_EQ(Read("\"one\r\n\ntwo\",x\nlast,y"),
            (Records{{1, {"one\r\n\ntwo", "x"}}, {4, {"last", "y"}}}));
}

TEST(Csv, NamesTheLineOfABadQuote) {
  const auto message = [](const std::string& text) -> std::string {
    try {
      Read(text);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message("a\nx\"y\n"), HasSubstr("t.csv:2: a quote inside"));
  EXPECT_THAT(message("a\n\"x\"y\n"), HasSubstr("t.csv:2: a quote inside"));
  EXPECT_THAT(message("a\n\nb,\"open\n\n"), HasSubstr("t.csv:3: the quote opened here"));
}

}  // namespace
}  // namespace nibble
