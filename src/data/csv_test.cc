#include "data/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using Records = std::vector<std::pair<int64_t, std::vector<std::string>>>;

Records Read(const std::string& text, char separator = ',') {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "csv_test.csv";
  WriteTextFile(path, text);
  const Input input(path);
  CharStream in(input);
  Records records;
  ReadCsv(in, separator, "t.csv", [&](std::vector<std::string> fields, int64_t line) {
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

TEST(Csv, LinesMayEndInACarriageReturn) {
  EXPECT_EQ(Read("a,b\r1,2\r\r3,4"), (Records{{1, {"a", "b"}}, {2, {"1", "2"}}, {4, {"3", "4"}}}));
}

TEST(Csv, BlankLinesAreNoRecordsButEmptyFieldsAre) {
  EXPECT_EQ(Read("a\n  \n\t\n\"\"\n"), (Records{{1, {"a"}}, {4, {""}}}));
  EXPECT_EQ(Read("a,b\n,\n"), (Records{{1, {"a", "b"}}, {2, {"", ""}}}));
  EXPECT_EQ(Read(""), Records());
  EXPECT_EQ(Read("a,"), (Records{{1, {"a", ""}}}));
}

TEST(Csv, AQuoteInsideAFieldIsText) {
  EXPECT_EQ(Read("5\" disk,a \"b\" c\n"), (Records{{1, {"5\" disk", "a \"b\" c"}}}));
  EXPECT_EQ(Read("\"x\"y,\"x\" \"y\"\n"), (Records{{1, {"xy", "x \"y\""}}}));
}

TEST(Csv, SeparatesByTabsToo) {
  EXPECT_EQ(Read("a,b\tc\n\"1\t2\"\t3\n", '\t'), (Records{{1, {"a,b", "c"}}, {2, {"1\t2", "3"}}}));
}

TEST(Csv, NamesTheLineOfAQuoteThatIsNeverClosed) {
  try {
    Read("a\n\nb,\"open\n\n");
    ADD_FAILURE() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("t.csv:3: the quote opened here"));
  }
}

}  // namespace
}  // namespace nibble
