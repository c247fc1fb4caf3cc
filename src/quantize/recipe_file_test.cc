#include "quantize/recipe_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kCard[] = R"(
default_stage:
  default_modifiers:
    GPTQModifier:
      config_groups:
        group_0:
          targets: [Linear]
          input_activations: null
          weights: {num_bits: 4, type: int, symmetric: true, group_size: 128, strategy: group,
                    dynamic: false, actorder: null, observer: minmax, observer_kwargs: {}}
      targets: [Linear]
      ignore: [lm_head, 're:.*block_sparse_moe.gate']
      sequential_update: true
      block_size: 64
      dampening_frac: 0.1
)";

TEST(RecipeFile, ReadsTheCardsRecipe) {
  const RecipeOptions options = ParseRecipe(kCard, "recipe.yaml");
  EXPECT_EQ(options.method, "gptq");
  EXPECT_EQ(options.bits, 4);
  EXPECT_EQ(options.group_size, "128");
  EXPECT_FALSE(options.asymmetric);
  EXPECT_EQ(options.act_order, "none");
  EXPECT_EQ(options.observer, "minmax");
  EXPECT_EQ(options.dampening, 0.1);
  EXPECT_EQ(options.block_size, 64);
  EXPECT_THAT(options.ignore, ElementsAre("lm_head", "re:.*block_sparse_moe.gate"));
}

TEST(RecipeFile, ReadsPresetsAndDefaults) {
  const auto read = [](const std::string& arguments) {
    return ParseRecipe("quant_modifiers:\n  " + arguments, "r");
  };
  const RecipeOptions gptq =
      read("GPTQModifier: {scheme: W4A16_ASYM, targets: Linear, ignore: [lm_head]}");
  EXPECT_TRUE(gptq.asymmetric);
  EXPECT_EQ(gptq.dampening, 0.01);
  EXPECT_EQ(gptq.block_size, 128);
  EXPECT_THAT(gptq.ignore, ElementsAre("lm_head"));
  const RecipeOptions rtn = read("QuantizationModifier: {scheme: {W8A16: [Linear]}}");
  EXPECT_EQ(rtn.method, "rtn");
  EXPECT_EQ(rtn.bits, 8);
  EXPECT_EQ(rtn.group_size, "channel");
  EXPECT_EQ(read("GPTQModifier: {scheme: W4A16, actorder: true}").act_order, "group");
  EXPECT_EQ(read("GPTQModifier: {scheme: W4A16, actorder: weight}").act_order, "static");
}

TEST(RecipeFile, WhatItWritesItReads) {
  for (const char* method : {"gptq", "rtn"}) {
    for (const char* group_size : {"32", "channel"}) {
      RecipeOptions options;
      options.method = method;
      options.group_size = group_size;
      options.asymmetric = true;
      options.bits = 8;
      options.observer = "mse";
      if (options.method == "gptq") options.act_order = "static";
      options.ignore = {"lm_head", "it's", "re:.*gate$"};
      const RecipeOptions back = ParseRecipe(RecipeToYaml(MakeRecipe(options)), "r");
      EXPECT_EQ(back.method, options.method);
      EXPECT_EQ(back.group_size, options.group_size);
      EXPECT_EQ(back.bits, 8);
      EXPECT_TRUE(back.asymmetric);
      EXPECT_EQ(back.observer, "mse");
      EXPECT_EQ(back.act_order, options.act_order);
      EXPECT_EQ(back.ignore, options.ignore);
    }
  }
}

void ExpectError(const std::string& yaml, const ::testing::Matcher<std::string>& message) {
  try {
    ParseRecipe(yaml, "r.yaml");
    FAIL() << "accepted: " << yaml;
  } catch (const Error& error) {
    EXPECT_THAT(std::string(error.what()), message);
  }
}

TEST(RecipeFile, RefusesByName) {
  const auto gptq = [](const std::string& arguments) {
    return "s_stage:\n  q_modifiers:\n    GPTQModifier: " + arguments;
  };
  ExpectError("s_stage:\n  q_modifiers:\n    SmoothQuantModifier: {smoothing_strength: 0.8}\n",
              AllOf(HasSubstr("SmoothQuantModifier"), HasSubstr("s_stage.q_modifiers")));
  ExpectError(gptq("{scheme: W8A8}"), AllOf(HasSubstr("W8A8"), HasSubstr("W4A16_ASYM")));
  ExpectError(gptq("{scheme: W4A16, mask_structure: '2:4'}"), HasSubstr("mask_structure"));
  ExpectError(gptq("{scheme: W4A16, targets: ['re:.*q_proj']}"), HasSubstr("targets"));
  ExpectError(gptq("{}"), HasSubstr("config_groups or scheme"));
  ExpectError(
      gptq("{config_groups: {a: {weights: {num_bits: 4}, input_activations: {num_bits: 8}}}}"),
      HasSubstr("a.input_activations"));
  ExpectError(gptq("{config_groups: {a: {weights: {num_bits: 3}}}}"),
              HasSubstr("weights.num_bits"));
  ExpectError(gptq("{config_groups: {a: {weights: {num_bits: x}}}}"),
              HasSubstr("expected an integer"));
  ExpectError(gptq("{config_groups: {a: {weights: {num_bits: 4, type: float}}}}"),
              HasSubstr("float"));
  ExpectError(gptq("{config_groups: {a: {weights: {}}, b: {weights: {}}}}"), HasSubstr("2 groups"));
  ExpectError(gptq("{config_groups: {a: {weights: {num_bits: 4, group_size: 48}}}}"),
              HasSubstr("48"));
  ExpectError(gptq("{scheme: W4A16}") + "\n    QuantizationModifier: {scheme: W4A16}",
              HasSubstr("a second quantization"));
  ExpectError("hello", HasSubstr("expected stages"));
  ExpectError("", HasSubstr("expected stages"));
  ExpectError("lr: 3", HasSubstr("lr"));
}

}  // namespace
}  // namespace nibble
