#include "base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

template <typename Action>
std::string ErrorOf(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidData) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(ParseJson, KeepsTheOrderOfKeys) {
  const std::string text = R"({"z":1,"a":[true,null,-2,3.5,"\u00e9"],"m":{"b":{},"a":[]}})";
  EXPECT_EQ(ParseJson(text, "file").dump(),
            "{\"z\":1,\"a\":[true,null,-2,3.5,\"é\"],\"m\":{\"b\":{},\"a\":[]}}");
}

TEST(ParseJson, ReadsWhatIsNoObject) {
  EXPECT_EQ(ParseJson(" 12 ", "file"), 12);
  EXPECT_EQ(ParseJson("\"x\"", "file"), "x");
  EXPECT_EQ(ParseJson("[]", "file"), Json::array());
  EXPECT_EQ(ParseJson("18446744073709551615", "file"), 18446744073709551615u);
}

TEST(ParseJson, NamesTheDocumentAndTheFault) {
  const struct {
    std::string text;
    const char* message;
  } cases[] = {
      {"", "not valid JSON near byte"},
      {"{", "not valid JSON near byte 2"},
      {std::string("{}\0x", 4), "not valid JSON near byte 2: zero byte"},
      {"{} x", "not valid JSON near byte 4"},
      {"{\"a\":1,}", "not valid JSON"},
      {"{\"a\":NaN}", "not valid JSON"},
      {"{\"a\":1e999}", "not valid JSON"},
      {"\"\xc3\x28\"", "not valid JSON"},
      {"\"\xed\xa0\x80\"", "not valid JSON"},
      {R"({"a":1,"a":2})", "duplicate key \"a\""},
      {R"([{"b":{"a\n":1,"a\n":2}}])", "duplicate key \"a\\x0a\""},
      {std::string(101, '['), "nested deeper than 100 levels"},
  };
  for (const auto& [text, message] : cases) {
    const std::string error = ErrorOf([&input = text] { ParseJson(input, "config.json"); });
    EXPECT_THAT(error, HasSubstr("config.json: ")) << text;
    EXPECT_THAT(error, HasSubstr(message)) << text;
    EXPECT_LT(error.size(), 400u);
  }
}

TEST(ParseJson, AllowsEqualKeysInDifferentObjects) {
  EXPECT_NO_THROW(ParseJson(R"([{"a":{"a":1}},{"a":2}])", "file"));
}

TEST(ParseJson, AllowsAHundredLevels) {
  EXPECT_NO_THROW(ParseJson(std::string(100, '[') + std::string(100, ']'), "file"));
}

TEST(ParseJson, TakesLinearTimeForManyKeys) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) {
    text += (i > 0 ? ",\"k" : "\"k") + std::to_string(i) + "\":0";
  }
  EXPECT_EQ(ParseJson(text + "}", "file").size(), 200'000u);  // quadratic: minutes
}

TEST(ReadJsonFile, SaysWhichFile) {
  const testing::TemporaryDirectory directory;
  const std::string path = directory.path() / "x.json";
  WriteTextFile(path, "{\"a\": }");
  EXPECT_THAT(ErrorOf([&] { ReadJsonFile(path); }), HasSubstr(path));
}

TEST(GetRequired, ReadsEachType) {
  const Json object = ParseJson(R"({"b":true,"i":-3,"u":5,"d":1e6,"s":"x"})", "file");
  EXPECT_EQ(GetRequired<bool>(object, "b", "file"), true);
  EXPECT_EQ(GetRequired<int64_t>(object, "i", "file"), -3);
  EXPECT_EQ(GetRequired<int64_t>(object, "u", "file"), 5);
  EXPECT_EQ(GetRequired<double>(object, "d", "file"), 1e6);
  EXPECT_EQ(GetRequired<double>(object, "i", "file"), -3.0);
  EXPECT_EQ(GetRequired<std::string>(object, "s", "file"), "x");
}

TEST(GetRequired, GivesExpectedAndFound) {
  const Json object = ParseJson(
      R"({"text":"256","float":1.5,"huge":9223372036854775808,"null":null,"list":[1]})", "file");
  const auto integer = [&](const char* key) {
    return ErrorOf([&] { GetRequired<int64_t>(object, key, "config.json"); });
  };
  EXPECT_EQ(integer("text"), "config.json: text: expected an integer, found \"256\"");
  EXPECT_EQ(integer("float"), "config.json: float: expected an integer, found 1.5");
  EXPECT_EQ(integer("huge"), "config.json: huge: expected an integer, found 9223372036854775808");
  EXPECT_EQ(integer("list"), "config.json: list: expected an integer, found an array");
  EXPECT_EQ(integer("null"), "config.json: null is missing");
  EXPECT_EQ(integer("absent"), "config.json: absent is missing");
  EXPECT_EQ(ErrorOf([&] { GetRequired<bool>(object, "text", "f"); }),
            "f: text: expected true or false, found \"256\"");
  EXPECT_EQ(ErrorOf([] { GetRequired<bool>(Json(3), "text", "f"); }),
            "f: expected an object, found 3");
}

TEST(GetOr, FallsBackOnlyWhenAbsentOrNull) {
  const Json object = ParseJson(R"({"null":null,"text":"x"})", "file");
  EXPECT_EQ(GetOr<int64_t>(object, "absent", 7, "file"), 7);
  EXPECT_EQ(GetOr<int64_t>(object, "null", 7, "file"), 7);
  EXPECT_EQ(GetOr<std::string>(object, "text", "y", "file"), "x");
  EXPECT_THAT(ErrorOf([&] { GetOr<double>(object, "text", 1.0, "file"); }),
              HasSubstr("expected a number"));
}

}  // namespace
}  // namespace nibble
