#include "checkpoint/module_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

bool Matches(const std::string& pattern, std::string_view module) {
  return ModulePattern(pattern).Matches(module);
}

void ExpectRefused(const std::string& pattern, ErrorCode code, const std::string& message) {
  try {
    const ModulePattern accepted(pattern);
    ADD_FAILURE() << "accepted " << pattern;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("pattern"));
    EXPECT_THAT(error.what(), HasSubstr(message));
  }
}

TEST(ModulePattern, ANameMeansItselfAlone) {
  EXPECT_TRUE(Matches("lm_head", "lm_head"));
  EXPECT_FALSE(Matches("lm_head", "model.lm_head"));
  EXPECT_FALSE(Matches("lm_hea.", "lm_head"));
  EXPECT_EQ(ModulePattern("re:a").text(), "re:a");
}

TEST(ModulePattern, AnExpressionIsAnchoredAtTheStartOnly) {
  const std::string gate = "model.layers.3.block_sparse_moe.gate";
  EXPECT_TRUE(Matches("re:.*block_sparse_moe.gate", gate));
  EXPECT_TRUE(Matches("re:.*gate", gate + "_proj"));  // a prefix is enough
  EXPECT_FALSE(Matches("re:.*gate$", gate + "_proj"));
  EXPECT_FALSE(Matches("re:block_sparse_moe", gate));
  EXPECT_TRUE(Matches("re:model\\.layers\\.(3|4)\\.", gate));
  EXPECT_TRUE(Matches("re:", gate));
  EXPECT_TRUE(Matches("re:x|model", gate));
}

// What Python's re answers to each (Python 3.11; {,n} and \_ are spelled otherwise in RE2).
TEST(ModulePattern, SpellsExpressionsAsPythonDoes) {
  const struct {
    const char* pattern;
    const char* module;
    bool matches;
  } cases[] = {
      {"re:(?i).*GATE$", "a.gate", true},
      {"re:.*GATE$", "a.gate", false},
      {"re:(?P<block>a|b)\\.c", "b.c", true},
      {"re:(?:a|b)\\.c", "b.c", true},
      {"re:(?i:A)b", "ab", true},
      {"re:(?i:A)b", "aB", false},
      {"re:(?i)a(?-i:B)", "aB", true},
      {"re:(?i)a(?-i:B)", "ab", false},
      {"re:(?a)\\w+$", "gate", true},
      {"re:(?ai)GATE", "gate", true},
      {"re:(?#the routers).*gate", "a.gate", true},
      {"re:a\\Z", "a", true},
      {"re:a\\Z", "ab", false},
      {"re:\\Aa", "a", true},
      {"re:a{,2}b", "aab", true},
      {"re:a{,2}b", "aaab", false},
      {"re:a{,}b", "aaab", true},
      {"re:a{2}$", "aa", true},
      {"re:a{1,}?b", "aab", true},
      {"re:a{x}", "a{x}", true},
      {"re:a{}", "a{}", true},
      {"re:{", "{", true},
      {"re:self\\_attn", "self_attn", true},
      {"re:a\\ b\\-c\\.d", "a b-c.d", true},
      {"re:\\x61\\u0062\\U00000063", "abc", true},
      {"re:\\141\\060\\0", "a0", false},
      {"re:\\141\\060", "a0", true},
      {"re:[\\141-c]+$", "abc", true},
      {"re:[\\b]", "b", false},
      {"re:[[:alpha:]]", "a]", true},  // one of [ : a l p h, then ]
      {"re:[[:alpha:]]", "x]", false},
      {"re:[[:alpha:]]", "a", false},
      {"re:[]a]+$", "]a", true},
      {"re:[^]a]", "]", false},
      {"re:[^]a]", "b", true},
      {"re:[a\\]b]+$", "]ab", true},
      {"re:[(?!a]+$", "(?!a", true},
      {"re:[\\d.]+\\.", "3.1.", true},
      {"re:\\(\\?!a", "(?!a", true},
      {"re:\\\\1", "\\1", true},
      {"re:(a+)+$", "aaaa!", false},
      {"re:.*?\\bgate\\b", "a.gate.b", true},
      {"re:é\\é", "éé", true},
  };
  for (const auto& [pattern, module, matches] : cases) {
    EXPECT_EQ(Matches(pattern, module), matches) << pattern << " on " << module;
  }
}

TEST(ModulePattern, NamesWhatASearchInLinearTimeCannotDo) {
  const struct {
    const char* pattern;
    const char* what;
  } cases[] = {
      {"re:(?=a)", "a look-ahead"},
      {"re:(?!.*expert).*gate", "a negative look-ahead"},
      {"re:.*(?<=x)a", "a look-behind"},
      {"re:.*(?<!proj)\\.gate$", "a negative look-behind"},
      {"re:(a)\\1", "a back-reference"},
      {"re:(a)\\12", "a back-reference"},
      {"re:(a)\\8888888888888888888", "a back-reference"},  // beyond any integer
      {"re:(?P<x>a)(?P=x)", "a back-reference"},
      {"re:(a)?(?(1)b|c)", "a conditional group"},
      {"re:(?>a*)b", "an atomic group"},
      {"re:a*+b", "a possessive repetition"},
      {"re:a{2,3}+b", "a possessive repetition"},
      {"re:(?x) a b", "the verbose flag"},
  };
  for (const auto& [pattern, what] : cases) ExpectRefused(pattern, ErrorCode::kUnsupported, what);
}

TEST(ModulePattern, RefusesWhatIsNoExpression) {
  for (const char* pattern : {"re:(",           "re:)",       "re:[",
                              "re:[]",          "re:*",       "re:a{2,1}",
                              "re:a**",         "re:\\",      "re:[\\",
                              "re:[a\\",        "re:\\q",     "re:\\Q.\\E",
                              "re:\\pL",        "re:\\C",     "re:[\\Z]",
                              "re:(?",          "re:(?i",     "re:(?U)a",
                              "re:(?<x>a)",     "re:(?P",     "re:(?P>a)",
                              "re:(?#",         "re:\\x6",    "re:\\u006",
                              "re:\\U00110000", "re:\\777",   "re:\\7777777777777777777",
                              "re:[b-a]",       "re:a{1001}", "re:\xff"}) {
    ExpectRefused(pattern, ErrorCode::kInvalidArgument, "not a regular expression");
  }
}

TEST(ModulePattern, StaysFastAndSmallForHostileExpressions) {
  const std::string module(60, 'a');
  EXPECT_FALSE(Matches("re:(a+)+$", module + "!"));
  EXPECT_FALSE(Matches("re:(a|aa)*(a|aa)*(a|aa)*b", module));
  EXPECT_FALSE(Matches("re:(.*.*.*.*.*.*.*.*)*b", std::string(100'000, 'a')));
  for (const std::string& pattern :
       {std::string("re:a{100000}"), std::string("re:((a{90}){90}){90}"),
        std::string("re:(((((x{1,2}){1,9}){1,9}){1,9}){1,9}){1,9}"),
        "re:" + std::string(100'000, '(')}) {
    ExpectRefused(pattern, ErrorCode::kInvalidArgument, "not a regular expression");
  }
  EXPECT_TRUE(Matches("re:" + std::string(10'000, '(') + std::string(10'000, ')'), module));
}

TEST(MatchesAny, LooksAtAllPatterns) {
  const std::vector<ModulePattern> patterns = CompilePatterns({"a", "re:b"});
  EXPECT_TRUE(MatchesAny(patterns, "bc"));
  EXPECT_FALSE(MatchesAny(patterns, "c"));
  EXPECT_FALSE(MatchesAny({}, "c"));
  const std::vector<ModulePattern> copies = patterns;
  EXPECT_TRUE(MatchesAny(copies, "bc"));
}

}  // namespace
}  // namespace nibble
