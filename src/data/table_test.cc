#include "data/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "base/file.h"
#include "tests/support/paths.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

const fs::path kRows = fs::path(kSourceDir) / "tests/golden/rows";

Columns Texts(std::vector<std::string> names) {
  Columns columns;
  for (std::string& name : names) columns.choices.push_back({std::move(name)});
  return columns;
}

Columns Lists(const std::string& name) { return {.choices = {{name}}, .lists = true, .hint = ""}; }

class TableTest : public ::testing::Test {
 protected:
  static std::vector<Row> Rows(const fs::path& path, const Columns& columns) {
    const Table table(path, columns, Format::kJson);
    std::vector<Row> rows;
    table.ForEachRow([&](Row row) { rows.push_back(std::move(row)); });
    size_t again = 0;
    table.ForEachRow([&](const Row& row) { again += row.value == rows[again].value ? 1 : 0; });
    EXPECT_EQ(again, rows.size());
    return rows;
  }

  std::vector<Row> Rows(const std::string& name, const std::string& text, const Columns& columns) {
    WriteTextFile(folder_ / name, text);
    return Rows(folder_ / name, columns);
  }

  // The texts of a column; "-" where a row has none.
  static std::vector<std::string> Values(const std::vector<Row>& rows, const std::string& column) {
    std::vector<std::string> texts;
    for (const Row& row : rows) {
      texts.push_back(row.choice ? row.value[column].get<std::string>() : "-");
    }
    return texts;
  }

  static std::string MessageOf(ErrorCode code, const fs::path& path, const Columns& columns) {
    try {
      Rows(path, columns);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "nothing thrown";
  }

  std::string Message(ErrorCode code, const std::string& name, const std::string& text,
                      const Columns& columns = Texts({"a"})) {
    WriteTextFile(folder_ / name, text);
    return MessageOf(code, folder_ / name, columns);
  }

  testing::TemporaryDirectory temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(TableTest, ReadsJsonLinesAndArraysUnderAnyOfTheirNames) {
  for (const char* name : {"a.json", "a.jsonl", "a.ndjson", "a"}) {
    const std::vector<Row> lines = Rows(name, "{\"a\": \"x\"}\n\n{\"a\": \"y\"}\n", Texts({"a"}));
    EXPECT_THAT(Values(lines, "a"), ElementsAre("x", "y"));
    EXPECT_THAT(lines[1].where, EndsWith(std::string(name) + ":3"));
    const std::vector<Row> array = Rows(name, "[{\"a\": \"x\"},\n {\"a\": \"y\"}]", Texts({"a"}));
    EXPECT_THAT(Values(array, "a"), ElementsAre("x", "y"));
    EXPECT_THAT(array[1].where, EndsWith(std::string(name) + ": row 2"));
  }
}

TEST_F(TableTest, ReadsCsvWithNamesFromTheFirstRecord) {
  const std::vector<Row> rows =
      Rows("a.csv", "instruction,output\n\"a\nb\",1\nc,\n", Texts({"output"}));
  EXPECT_THAT(Values(rows, "output"), ElementsAre("1", ""));
  EXPECT_THAT(rows[1].where, EndsWith("a.csv:4"));
  EXPECT_THAT(Values(Rows("a.tsv", "x\ta\n1\tb,c\n", Texts({"a"})), "a"), ElementsAre("b,c"));
}

TEST_F(TableTest, CsvRecordsMayEndEarly) {
  const std::vector<Row> rows = Rows("a.csv", "x,a\n1\n2,b\n", Texts({"a"}));
  EXPECT_THAT(Values(rows, "a"), ElementsAre("-", "b"));
  EXPECT_EQ(rows[0].WhyAbsent("a"), "column \"a\" is null");
}

TEST_F(TableTest, LinesOfPlainTextAreRows) {
  const std::vector<Row> rows =
      Rows("a.txt", "\xEF\xBB\xBFone\r\n\n \n{\"a\": 1}", Texts({"a", "text"}));
  EXPECT_THAT(Values(rows, "text"), ElementsAre("one", " ", "{\"a\": 1}"));
  EXPECT_THAT(rows[1].where, EndsWith("a.txt:3"));
  EXPECT_THAT(Message(ErrorCode::kInvalidData, "a.txt", "a\nb\xff\n"),
              HasSubstr("a.txt:2: the text is not valid UTF-8"));
}

TEST_F(TableTest, EveryFormatGivesTheSameRows) {
  for (const Columns& columns : {Texts({"output"}), Texts({"source"}), Lists("messages")}) {
    const std::string column = columns.choices[0][0];
    const std::vector<Row> expected = Rows(kRows / "rows.jsonl", columns);
    ASSERT_EQ(expected.size(), 20u);
    for (const char* name :
         {"rows.jsonl.gz", "rows.jsonl.zst", "rows.none.parquet", "rows.snappy.parquet",
          "rows.zstd.parquet", "rows.gzip.parquet", "rows.lz4.parquet", "rows.brotli.parquet"}) {
      const std::vector<Row> rows = Rows(kRows / name, columns);
      ASSERT_EQ(rows.size(), expected.size()) << name;
      for (size_t i = 0; i < rows.size(); ++i) {
        EXPECT_EQ(rows[i].value[column], expected[i].value[column]) << name;
        EXPECT_EQ(rows[i].choice, expected[i].choice) << name;
      }
    }
  }
  EXPECT_THAT(Rows(kRows / "rows.snappy.parquet", Texts({"output"}))[19].where,
              EndsWith("rows.snappy.parquet: row 20"));
}

TEST_F(TableTest, ParquetTextsAreTextsHoweverTheyAreStored) {
  const fs::path path = kRows / "types.parquet";
  EXPECT_THAT(Values(Rows(path, Texts({"large"})), "large"), ElementsAre("a", "-", ""));
  EXPECT_THAT(Values(Rows(path, Texts({"dictionary"})), "dictionary"), ElementsAre("x", "y", "x"));
  const std::vector<Row> lists = Rows(path, Lists("list"));
  ASSERT_EQ(lists.size(), 3u);
  EXPECT_EQ(lists[0].value["list"], Json::parse("[1, null]"));
  EXPECT_EQ(lists[1].value["list"], Json::array());
  EXPECT_EQ(lists[2].WhyAbsent("list"), "column \"list\" is null");
}

TEST_F(TableTest, ParquetColumnsNobodyReadsMayHoldAnything) {
  const std::vector<Row> rows = Rows(kRows / "awkward.parquet", Texts({"text"}));
  EXPECT_THAT(Values(rows, "text"), ElementsAre("one", "-", "three"));
  EXPECT_EQ(rows[1].WhyAbsent("text"), "column \"text\" is null");
  EXPECT_THAT(rows[1].where, EndsWith("awkward.parquet: row 2"));
}

TEST_F(TableTest, ParquetColumnsOfAnotherTypeAreNamed) {
  const auto message = [](const char* file, const Columns& columns) {
    return MessageOf(ErrorCode::kInvalidData, kRows / file, columns);
  };
  EXPECT_THAT(message("awkward.parquet", Texts({"x"})),
              HasSubstr("awkward.parquet: two columns are called \"x\""));
  EXPECT_THAT(message("awkward.parquet", Texts({"txt"})),
              AllOf(HasSubstr("no column \"txt\"; there are: text, when"), HasSubstr("x, x")));
  for (const char* column : {"when", "there", "took", "day", "hour", "price", "half", "image",
                             "digest", "map", "nothing", "deep"}) {
    EXPECT_THAT(message("awkward.parquet", Texts({column})),
                AllOf(HasSubstr(std::string("column \"") + column + "\": expected text, found"),
                      HasSubstr("OPTIONAL")));
  }
  EXPECT_THAT(message("awkward.parquet", Texts({"when"})), HasSubstr("INT64 when (TIMESTAMP"));
  for (const char* column : {"int8", "uint64", "double", "bool", "list", "struct"}) {
    EXPECT_THAT(message("types.parquet", Texts({column})), HasSubstr("expected text, found"));
  }
  for (const char* column : {"int8", "large", "struct"}) {
    EXPECT_THAT(message("types.parquet", Lists(column)),
                HasSubstr("expected a list of messages, found"));
  }
}

TEST_F(TableTest, TheFirstChoiceThatARowHasCounts) {
  const Columns columns = {.choices = {{"a", "b"}, {"c"}}, .lists = false, .hint = ""};
  std::vector<std::optional<size_t>> choices;
  for (const Row& row : Rows("a.jsonl",
                             R"({"a": "1", "b": "2", "c": "3"} {"a": "1", "c": "3"} {"a": "1"}
                                {"a": null, "b": "2", "c": "3"} {"a": 7, "c": "3"} {})",
                             columns)) {
    choices.push_back(row.choice);
  }
  EXPECT_THAT(choices, ElementsAre(0, 1, std::nullopt, 1, 1, std::nullopt));
}

TEST_F(TableTest, AColumnOfAChoiceThatTheTableHasNotIsNotRead) {
  const Columns columns = {.choices = {{"a", "b"}, {"c"}}, .lists = false, .hint = "look twice"};
  const std::vector<Row> rows = Rows("a.csv", "a,a,c\n\xff,\xff,x\n", columns);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].choice, 1u);
  EXPECT_THAT(Message(ErrorCode::kInvalidData, "a.csv", "a,d\n1,2\n", columns),
              EndsWith("a.csv:1: no column \"a\" and \"b\" or \"c\"; there are: a, d; look twice"));
}

TEST_F(TableTest, AbsentAndNullAreToldApart) {
  const std::vector<Row> rows =
      Rows("a.jsonl", "{\"a\": null}\n{\"b\": 1, \"c\": 2}\n{}\n", Texts({"a"}));
  EXPECT_EQ(rows[0].WhyAbsent("a"), "column \"a\" is null");
  EXPECT_EQ(rows[1].WhyAbsent("a"), "no column \"a\"; the row has: b, c");
  EXPECT_EQ(rows[2].WhyAbsent("a"), "no column \"a\"; the row has: none");
}

TEST_F(TableTest, ErrorsNameTheLine) {
  const ErrorCode data = ErrorCode::kInvalidData;
  EXPECT_THAT(Message(data, "a.jsonl", "{}\n{\n"), HasSubstr("a.jsonl:2: not valid JSON"));
  EXPECT_THAT(Message(data, "a.jsonl", "{\"a\": 1}"),
              HasSubstr("a.jsonl:1: column \"a\": expected a string, found 1"));
  EXPECT_THAT(Message(data, "a.json", "[{}, {\"a\": \"x\"}]", Lists("a")),
              HasSubstr("a.json: row 2: column \"a\": expected a list of messages"));
  EXPECT_THAT(Message(data, "a.csv", "a,b\n1,2\n1,2,3\n"),
              HasSubstr("a.csv:3: expected 2 fields, found 3"));
  EXPECT_THAT(Message(data, "a.csv", "a,b,a\n"), HasSubstr("two columns are called \"a\""));
  EXPECT_THAT(Message(data, "a.csv", "b,a\n\xff,\xff\n"),
              HasSubstr("a.csv:2: the text is not valid UTF-8"));
  EXPECT_THAT(Message(data, "a.csv", "b,a,b\n\xff,fine,\xff\n"), "nothing thrown");
}

TEST_F(TableTest, ErrorsNameTheFile) {
  EXPECT_THAT(Message(ErrorCode::kUnsupported, "a.xyz", "x"), HasSubstr("expected .jsonl"));
  EXPECT_THAT(Message(ErrorCode::kInvalidData, "a.parquet", "PAR1 is not enough"),
              HasSubstr("a.parquet: "));
  EXPECT_THROW(Rows(folder_ / "absent.jsonl", Texts({"a"})), Error);
  EXPECT_THROW(Rows(folder_ / "absent.parquet", Texts({"a"})), Error);
}

TEST_F(TableTest, ADamagedParquetFileIsAnErrorWhereverTheDamageIs) {
  const std::string whole = ReadTextFile(kRows / "rows.none.parquet");
  int refused = 0;
  for (size_t at = 0; at < whole.size(); at += 37) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
    WriteTextFile(folder_ / "damaged.parquet", damaged);
    for (const Columns& columns : {Texts({"output"}), Lists("messages")}) {
      try {
        Rows(folder_ / "damaged.parquet", columns);  // a changed letter cannot be noticed
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalidData) << error.what();
        EXPECT_THAT(error.what(), HasSubstr("damaged.parquet: "));
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 10);
}

TEST_F(TableTest, ReadTextChecksUtf8) {
  WriteTextFile(folder_ / "a.txt", "fine ✓\n");
  EXPECT_EQ(ReadText(folder_ / "a.txt"), "fine ✓\n");
  EXPECT_EQ(ReadText(kRows / "rows.jsonl.zst"), ReadText(kRows / "rows.jsonl"));
  WriteTextFile(folder_ / "a.txt", "\xEF\xBB\xBF{\"a\": 1}");
  EXPECT_EQ(ReadText(folder_ / "a.txt"), "{\"a\": 1}");
  EXPECT_EQ(ReadJson(folder_ / "a.txt"), Json({{"a", 1}}));
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
