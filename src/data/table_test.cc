#include "data/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/file.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kRows = fs::path(kSourceDir) / "tests/golden/rows";

class TableTest : public ::testing::Test {
 protected:
  static std::vector<Row> Rows(const fs::path& path) {
    std::vector<Row> rows;
    ReadTable(path, [&](Row row) { rows.push_back(std::move(row)); });
    return rows;
  }

  std::vector<Row> Rows(const std::string& name, const std::string& text) {
    WriteTextFile(folder_ / name, text);
    return Rows(folder_ / name);
  }

  std::string Message(ErrorCode code, const std::string& name, const std::string& text) {
    try {
      Rows(name, text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "nothing thrown";
  }

  testing::TemporaryDirectory temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(TableTest, ReadsJsonLinesInOrder) {
  const std::vector<Row> rows =
      Rows("a.jsonl", "{\"a\": 1}\n {\"a\": \"x\"} \r\n{\"a\": null}\n\n \n");
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[1].value, Json({{"a", "x"}}));
  EXPECT_TRUE(rows[2].value["a"].is_null());
  EXPECT_THAT(rows[1].where, ::testing::EndsWith("a.jsonl:2"));
}

TEST_F(TableTest, ReadsAJsonArray) {
  const std::vector<Row> rows = Rows("a.json", "[{\"a\": 1},\n\n {\"b\": [2]}]");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].value, Json({{"b", Json::array({2})}}));
  EXPECT_THAT(rows[1].where, ::testing::EndsWith("a.json: row 2"));
}

TEST_F(TableTest, ReadsCsvWithNamesFromTheFirstRecord) {
  const std::vector<Row> rows = Rows("a.csv", "instruction,output\n\"a\nb\",1\nc,\n");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].value, Json({{"instruction", "a\nb"}, {"output", "1"}}));
  EXPECT_EQ(rows[1].value["output"], "");
  EXPECT_THAT(rows[1].where, ::testing::EndsWith("a.csv:4"));
}

TEST_F(TableTest, EveryFormatGivesTheSameRows) {
  const std::vector<Row> expected = Rows(kRows / "rows.jsonl");
  ASSERT_EQ(expected.size(), 20u);
  for (const char* name :
       {"rows.jsonl.gz", "rows.jsonl.zst", "rows.none.parquet", "rows.snappy.parquet",
        "rows.zstd.parquet", "rows.gzip.parquet", "rows.lz4.parquet", "rows.brotli.parquet"}) {
    const std::vector<Row> rows = Rows(kRows / name);
    ASSERT_EQ(rows.size(), expected.size()) << name;
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i].value, expected[i].value) << name;
  }
  EXPECT_THAT(Rows(kRows / "rows.snappy.parquet")[19].where,
              ::testing::EndsWith("rows.snappy.parquet: row 20"));
}

TEST_F(TableTest, ParquetKeepsTypesAndNulls) {
  const std::vector<Row> rows = Rows(kRows / "types.parquet");
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].value, Json::parse(R"({"int8": -128, "uint64": 0, "int64": -9223372036854775808,
      "float": 0.5, "double": 0.1, "bool": true, "large": "a", "dictionary": "x",
      "list": [1, null], "struct": {"a": 1, "b": null}})"));
  EXPECT_EQ(rows[1].value, Json::parse(R"({"int8": 127, "uint64": 9223372036854775808,
      "int64": 9223372036854775807, "float": null, "double": 1e300, "bool": false, "large": null,
      "dictionary": "y", "list": [], "struct": null})"));
  EXPECT_EQ(rows[2].value, Json::parse(R"({"int8": null, "uint64": 1, "int64": null, "float": -2.25,
      "double": null, "bool": null, "large": "", "dictionary": "x", "list": null,
      "struct": {"a": null, "b": ["q"]}})"));
}

TEST_F(TableTest, ErrorsNameTheLine) {
  const ErrorCode data = ErrorCode::kInvalidData;
  EXPECT_THAT(Message(data, "a.jsonl", "{}\n{\n"), HasSubstr("a.jsonl:2: not valid JSON"));
  EXPECT_THAT(Message(data, "a.jsonl", "{}\n\n\n{}\n"), HasSubstr("a.jsonl:2: the line is empty"));
  EXPECT_THAT(Message(data, "a.jsonl", "{}\n{}\n[1]\n"),
              HasSubstr("a.jsonl:3: expected an object"));
  EXPECT_THAT(Message(data, "a.jsonl", "{\"a\": \"\xff\"}"),
              HasSubstr("a.jsonl:1: not valid JSON"));
  EXPECT_THAT(Message(data, "a.jsonl", "{\"a\": 1, \"a\": 2}"), HasSubstr("duplicate key \"a\""));
  EXPECT_THAT(Message(data, "a.json", "{}"), HasSubstr("a.json: expected an array"));
  EXPECT_THAT(Message(data, "a.json", "[{}, 7]"), HasSubstr("a.json: row 2: expected an object"));
  EXPECT_THAT(Message(data, "a.csv", "a,b\n1\n"), HasSubstr("a.csv:2: expected 2 fields, found 1"));
  EXPECT_THAT(Message(data, "a.csv", "a,b,a\n"), HasSubstr("two columns are called \"a\""));
  EXPECT_THAT(Message(data, "a.csv", "a\n\xff\n"),
              HasSubstr("a.csv:2: the text is not valid UTF-8"));
}

TEST_F(TableTest, ErrorsNameTheFile) {
  EXPECT_THAT(Message(ErrorCode::kUnsupported, "a.txt", "x"), HasSubstr("expected .jsonl"));
  EXPECT_THAT(Message(ErrorCode::kUnsupported, "a.parquet.gz", "x"),
              HasSubstr("a.parquet.gz: a table"));
  EXPECT_THAT(Message(ErrorCode::kInvalidData, "a.parquet", "PAR1 is not enough"),
              HasSubstr("a.parquet: "));
  EXPECT_THROW(Rows(folder_ / "absent.jsonl"), Error);
  EXPECT_THROW(Rows(folder_ / "absent.parquet"), Error);
}

TEST_F(TableTest, ADamagedParquetFileIsAnErrorWhereverTheDamageIs) {
  const std::string whole = ReadTextFile(kRows / "rows.none.parquet");
  int refused = 0;
  for (size_t at = 0; at < whole.size(); at += 37) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
    try {
      Rows("damaged.parquet", damaged);  // a changed letter of a text is not detectable
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
      EXPECT_THAT(error.what(), HasSubstr("damaged.parquet: "));
      ++refused;
    }
  }
  EXPECT_GT(refused, 10);
}

TEST_F(TableTest, ReadTextChecksUtf8) {
  WriteTextFile(folder_ / "a.txt", "fine ✓\n");
  EXPECT_EQ(ReadText(folder_ / "a.txt"), "fine ✓\n");
  EXPECT_EQ(ReadText(kRows / "rows.jsonl.zst"), ReadText(kRows / "rows.jsonl"));
  WriteTextFile(folder_ / "a.txt", "fine\nnot \xc3(");
  try {
    ReadText(folder_ / "a.txt");
    ADD_FAILURE() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
    EXPECT_THAT(error.what(), HasSubstr("a.txt:2: not valid UTF-8 (byte 9)"));
  }
}

}  // namespace
}  // namespace nibble
