#include "base/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace nibble {
namespace {

using ::testing::HasSubstr;

TEST(Yaml, ReadsScalarsAsTheyLook) {
  const Json document =
      ParseYaml("{a: 1, b: 1.5, c: true, d: null, e: '1', f: [x, ~], g: -3, h: 1e3}", "y");
  EXPECT_EQ(document.dump(),
            R"({"a":1,"b":1.5,"c":true,"d":null,"e":"1","f":["x",null],"g":-3,"h":1000.0})");
}

TEST(Yaml, HostileDocumentsAreRefusedCheaply) {
  const auto error = [](const std::string& text) {
    try {
      ParseYaml(text, "y");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(error("a: &a [1]\nb: [*a, *a]"), HasSubstr("aliases"));
  EXPECT_THAT(error(std::string(5000, '[')), HasSubstr("y:1"));
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_THAT(error(deep), HasSubstr("more than 32 levels"));
  EXPECT_THAT(error(std::string(5000, '{')), HasSubstr("y:1"));
  EXPECT_THAT(error("a: 1\na: 2"), HasSubstr("twice"));
  EXPECT_THAT(error("{[1]: 2}"), HasSubstr("key"));
  EXPECT_THAT(error("a: !python/object:os.system {}"), HasSubstr("y:1"));
  EXPECT_THAT(error("a: [1, 2"), HasSubstr("y:"));
  EXPECT_THAT(error(std::string(2 << 20, 'a')), HasSubstr("bytes"));
  EXPECT_THAT(error("a: 1\nb: \xff"), HasSubstr("y:2: not UTF-8"));
  EXPECT_THAT(error("a: \"\\ud800\""), HasSubstr("y:1"));
  std::string many = "[";
  for (int i = 0; i < 30000; ++i) many += "1,";
  EXPECT_THAT(error(many + "1]"), HasSubstr("more than 20000 values"));
}

}  // namespace
}  // namespace nibble
