#include "data/json_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "base/file.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class JsonRowsTest : public ::testing::Test {
 protected:
  static std::vector<std::pair<std::string, Json>> Rows(const std::string& text) {
    const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "json_rows";
    WriteTextFile(path, text);
    const Input input(path);
    CharStream in(input);
    std::vector<std::pair<std::string, Json>> rows;
    const std::vector<std::string> columns = {"a", "text"};
    ReadJsonRows(in, "f", columns, [&](Json value, std::string where) {
      rows.emplace_back(std::move(where), std::move(value));
    });
    return rows;
  }

  static std::vector<Json> Values(const std::string& text) {
    std::vector<Json> values;
    for (auto& [where, value] : Rows(text)) values.push_back(std::move(value));
    return values;
  }

  static std::string Message(const std::string& text) {
    try {
      Rows(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
      return error.what();
    }
    return "nothing thrown";
  }
};

const Json kOne = {{"a", 1}};
const Json kTwo = {{"a", 2}};

TEST_F(JsonRowsTest, RowsFollowEachOtherWhateverStandsBetween) {
  for (const char* text :
       {"{\"a\": 1}\n{\"a\": 2}\n", "{\"a\": 1}\r\n\r\n \t\n{\"a\": 2}", "{\"a\":1}{\"a\":2}",
        "\n\n{\"a\": 1}\r{\"a\": 2}\r", "{\n \"a\": 1\n}\n{\n \"a\": 2\n}\n",
        "[{\"a\": 1}, {\"a\": 2}]", "\n [\n{\"a\": 1}\n,\n{\"a\": 2}\n]\n "}) {
    EXPECT_THAT(Values(text), ElementsAre(kOne, kTwo)) << text;
  }
  for (const char* text : {"", " \n", "[]", "[ ]\n"}) EXPECT_TRUE(Values(text).empty()) << text;
}

TEST_F(JsonRowsTest, SaysWhereARowBegins) {
  const auto lines = Rows("{\"a\": 1}\n\n{\n\"a\": 2\n} {\"a\": 1}\n");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0].first, "f:1");
  EXPECT_EQ(lines[1].first, "f:3");
  EXPECT_EQ(lines[2].first, "f:5");
  EXPECT_EQ(Rows("[{\"a\": 1},\n{\"a\": 2}]")[1].first, "f: row 2");
}

TEST_F(JsonRowsTest, StringsAndNullsStandForRows) {
  EXPECT_THAT(Values("[\"x\", null, {\"text\": \"y\"}]"),
              ElementsAre(Json{{"text", "x"}}, Json::object(), Json{{"text", "y"}}));
  EXPECT_THAT(Values("null\n\"x\"\n"), ElementsAre(Json::object(), Json{{"text", "x"}}));
}

TEST_F(JsonRowsTest, PassesOverColumnsNobodyReads) {
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  const std::vector<std::string> others = {"NaN",
                                           "-NaN",
                                           "Infinity",
                                           "-Infinity",
                                           "[NaN, {\"b\": -Infinity}]",
                                           "\"NaN\"",
                                           "[]",
                                           "{\"a\": 7, \"a\": 8}",
                                           "-1.5",
                                           "1e999",
                                           "\"\\ud83d \xff \\\" \\\\\"",
                                           "[{\"]\": \"}\"}, \"\\\\\", 1e999]",
                                           "12345678901234567890123",
                                           deep};
  for (const std::string& other : others) {
    EXPECT_THAT(Values("{\"b\": " + other + ", \"a\": 1, \"c\": " + other + "}"),
                ElementsAre(Json{{"b", nullptr}, {"a", 1}, {"c", nullptr}}))
        << other.substr(0, 40);
  }
  EXPECT_EQ(Values("{\"b\": 1, \"a\": 1, \"b\": {}}").front()["a"], 1);
}

TEST_F(JsonRowsTest, NotANumberIsNullWhereItIsRead) {
  EXPECT_THAT(
      Values("{\"a\": NaN} {\"a\": -Infinity} {\"a\": [1, NaN, -2]}"),
      ElementsAre(Json{{"a", nullptr}}, Json{{"a", nullptr}}, Json{{"a", {1, nullptr, -2}}}));
  const std::string text = R"({"a": "NaN \" NaN -Infinity \\", "text": "\\\"NaN"})";
  EXPECT_THAT(Values(text),
              ElementsAre(Json{{"a", "NaN \" NaN -Infinity \\"}, {"text", "\\\"NaN"}}));
}

TEST_F(JsonRowsTest, MembersOfWhatIsReadAreKept) {
  EXPECT_THAT(Values(R"({"a": [{"b": 1, "c": {"a": null}}], "b": 2})"),
              ElementsAre(Json::parse(R"({"a": [{"b": 1, "c": {"a": null}}], "b": null})")));
}

TEST_F(JsonRowsTest, ErrorsNameTheRow) {
  EXPECT_THAT(Message("{\"a\": 1}\n{\"a\": }\n"), HasSubstr("f:2: not valid JSON"));
  EXPECT_THAT(Message("{\"a\": 1}\n\n{\"a\": \"tru"), HasSubstr("f:3: not valid JSON"));
  EXPECT_THAT(Message("{\"a\": \"b\nc\"}"), HasSubstr("f:1: not valid JSON"));
  EXPECT_THAT(Message("{\"a\": 1},\n{\"a\": 2}\n"), HasSubstr("f:1: not valid JSON"));
  EXPECT_THAT(Message("{\"a\": 1}\n# note\n"), HasSubstr("f:2: not valid JSON"));
  EXPECT_THAT(Message(std::string("{\"a\": 1}\n\0", 10)), HasSubstr("f:2: not valid JSON"));
  EXPECT_THAT(Message("{\"a\": Nothing}"), HasSubstr("f:1: not valid JSON"));
  EXPECT_THAT(Message("{\"a\": InfinityAndMoreThanThat}"), HasSubstr("f:1: not valid JSON"));
  EXPECT_THAT(Message("{\"a\": -}"), HasSubstr("f:1: not valid JSON"));
  for (const char* bad :
       {"{\"b\"}", "{\"b\": }", "{\"b\": , \"a\": 1}", "{\"b\": 1 2}", "{\"b\": 1", "{\"b\" 1}",
        "{\"b\": [1] 2}", "{\"b\": \"x\" \"y\"}", "{b: 1}"}) {
    EXPECT_THAT(Message(std::string("{}\n") + bad), HasSubstr("f:2: not valid JSON")) << bad;
  }
  for (const char* bad : {"{\"b\": \"x", "{\"b\": \"x\\", "{\"b\": \"x\n\"}", "{\"b\": [{\"c\": 1}",
                          "{\"b\": [\"x\n\"]}"}) {
    EXPECT_THAT(Message(std::string("{}\n") + bad),
                HasSubstr("f:2: not valid JSON: a string or a bracket is not closed"))
        << bad;
  }
  EXPECT_THAT(Message("{\"a\": \"\xff\"}"), HasSubstr("f:1: not valid JSON"));
  EXPECT_THAT(Message("{\"a\": 1, \"a\": 2}"), HasSubstr("f:1: duplicate key \"a\""));
  EXPECT_THAT(Message("{\"a\": {\"b\": 1, \"b\": 2}}"), HasSubstr("f:1: duplicate key \"b\""));
  EXPECT_THAT(Message("{}\n7\n"), HasSubstr("f:2: expected an object with named columns"));
  EXPECT_THAT(Message("[{}, [1]]"), HasSubstr("f: row 2: expected an object"));
  EXPECT_THAT(Message("[{}, ]"), HasSubstr("f: row 2: not valid JSON"));
  EXPECT_THAT(Message("[{}\n{}]"), HasSubstr("f:2: not valid JSON: expected a comma"));
  EXPECT_THAT(Message("[{}"), HasSubstr("f:1: not valid JSON: expected a comma"));
  EXPECT_THAT(Message("[{}]\n{}"), HasSubstr("f:2: not valid JSON: more behind the array"));
}

}  // namespace
}  // namespace nibble
