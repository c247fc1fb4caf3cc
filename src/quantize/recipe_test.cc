#include "quantize/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

void ExpectRefused(const RecipeOptions& options, const ::testing::Matcher<std::string>& message) {
  try {
    MakeRecipe(options);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(std::string(error.what()), message);
  }
}

TEST(Recipe, TheDefaultIsTheCards) {
  const Recipe recipe = MakeRecipe({});
  EXPECT_EQ(recipe.method, Method::kGptq);
  EXPECT_EQ(recipe.bits, 4);
  EXPECT_EQ(recipe.group_size, 128);
  EXPECT_TRUE(recipe.symmetric);
  EXPECT_EQ(recipe.act_order, ActOrder::kNone);
  EXPECT_EQ(recipe.observer, Observer::kMinMax);
  EXPECT_EQ(recipe.dampening, 0.1);
  EXPECT_EQ(recipe.min_code(), -8);
  EXPECT_EQ(recipe.max_code(), 7);
  EXPECT_TRUE(IsTarget(recipe, "model.layers.3.self_attn.q_proj"));
  EXPECT_TRUE(IsTarget(recipe, "model.layers.3.block_sparse_moe.experts.0.w1"));
  EXPECT_FALSE(IsTarget(recipe, "model.layers.3.block_sparse_moe.gate"));
  EXPECT_FALSE(IsTarget(recipe, "lm_head"));
}

TEST(Recipe, GroupsMustComeOutEven) {
  Recipe recipe;
  EXPECT_EQ(recipe.NumGroups("m", 384), 3);
  try {
    recipe.NumGroups("m", 100);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("m: its 100 inputs"), HasSubstr("`ignore` m")));
  }
  recipe.group_size = -1;
  EXPECT_EQ(recipe.NumGroups("m", 100), 1);
}

TEST(Recipe, UnknownWordsAreRefusedWithTheAllowedOnes) {
  ExpectRefused({.method = "awq"}, AllOf(HasSubstr("`method`"), HasSubstr("gptq, rtn")));
  ExpectRefused({.bits = 3}, AllOf(HasSubstr("`bits`"), HasSubstr("4, 8")));
  ExpectRefused({.group_size = "100"}, HasSubstr("32, 64, 128, channel"));
  ExpectRefused({.act_order = "yes"}, HasSubstr("none, static, weight, group"));
  ExpectRefused({.observer = "max"}, HasSubstr("minmax, mse, imatrix_mse"));
  ExpectRefused({.dampening = 0}, HasSubstr("`dampening`"));
  ExpectRefused({.block_size = 0}, HasSubstr("`block_size`"));
  ExpectRefused({.ignore = {"re:("}}, HasSubstr("regular expression"));
  try {
    MakeRecipe({.ignore = {"lm_head", "re:(?!.*proj).*"}});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("a negative look-ahead"));
  }
}

TEST(Recipe, RoundingToNearestHasNoUseForCalibrationOptions) {
  ExpectRefused({.method = "rtn", .act_order = "static"}, HasSubstr("`act_order` static"));
  ExpectRefused({.method = "rtn", .observer = "imatrix_mse"}, HasSubstr("imatrix_mse"));
}

}  // namespace
}  // namespace nibble
