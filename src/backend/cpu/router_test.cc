#include "backend/cpu/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace nibble::cpu {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Choice {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Choice Choose(const std::vector<float>& logits, size_t top_k, const RouterShape& shape = {},
              const float* correction = nullptr) {
  Choice choice{std::vector<int32_t>(top_k), std::vector<float>(top_k)};
  std::vector<float> scores(logits.size());
  ChooseExperts(shape, logits, correction, scores, choice.experts, choice.weights);
  return choice;
}

TEST(Router, WeighsTheBestBySoftmax) {
  const Choice choice = Choose({1.0f, 3.0f, -2.0f, 2.0f}, 2);
  EXPECT_THAT(choice.experts, ElementsAre(1, 3));
  EXPECT_FLOAT_EQ(choice.weights[0], 1.0f / (1.0f + std::exp(-1.0f)));
  EXPECT_FLOAT_EQ(choice.weights[1], 1.0f / (1.0f + std::exp(1.0f)));
}

TEST(Router, GivesATieToTheLowerExpert) {
  EXPECT_THAT(Choose({5.0f, 7.0f, 7.0f, 5.0f, 7.0f}, 4).experts, ElementsAre(1, 2, 4, 0));
}

TEST(Router, CanChooseAll) {
  EXPECT_THAT(Choose({0.0f, 2.0f, 1.0f}, 3).experts, ElementsAre(1, 2, 0));
  EXPECT_THAT(Choose({4.0f}, 1).weights, ElementsAre(1.0f));
}

TEST(Router, StaysInRangeForLargeAndEqualLogits) {
  const Choice choice = Choose({3e38f, 3e38f, -3e38f}, 2);
  EXPECT_THAT(choice.experts, ElementsAre(0, 1));
  EXPECT_THAT(choice.weights, ElementsAre(0.5f, 0.5f));
}

TEST(Router, ChoosesDistinctExpertsEvenAmongNaNs) {
  EXPECT_THAT(Choose({kNan, 1.0f, kNan, 0.0f}, 3).experts, ElementsAre(1, 3, 0));
  EXPECT_THAT(Choose({kNan, kNan, kNan}, 3).experts, UnorderedElementsAre(0, 1, 2));
  EXPECT_TRUE(std::isnan(Choose({kNan, 1.0f}, 1).weights[0]));  // the NaN propagates
}

TEST(Router, LeavesTheWeightsAsTheyAreWhereAsked) {
  const Choice choice = Choose({0.0f, std::log(2.0f), 0.0f}, 2, {.renormalise = false, .scale = 2});
  EXPECT_THAT(choice.experts, ElementsAre(1, 0));
  EXPECT_FLOAT_EQ(choice.weights[0], 2 * 0.5f);
  EXPECT_FLOAT_EQ(choice.weights[1], 2 * 0.25f);
}

TEST(Router, CorrectsTheChoiceButNotTheWeights) {
  const RouterShape sigmoid{.score = RouterScore::kSigmoid};
  const std::vector<float> logits = {std::log(3.0f), 0.0f, -std::log(3.0f)};  // 0.75, 0.5, 0.25
  EXPECT_THAT(Choose(logits, 2, sigmoid).experts, ElementsAre(0, 1));
  const std::vector<float> correction = {0.0f, -0.3f, 0.7f};
  const Choice choice = Choose(logits, 2, sigmoid, correction.data());
  EXPECT_THAT(choice.experts, ElementsAre(2, 0));
  EXPECT_FLOAT_EQ(choice.weights[0], 0.25f);
  EXPECT_FLOAT_EQ(choice.weights[1], 0.75f);
  const std::vector<float> favour = {0.0f, 0.0f, 1.0f};
  EXPECT_THAT(Choose(logits, 1, {}, favour.data()).experts, ElementsAre(2));  // softmax likewise
}

}  // namespace
}  // namespace nibble::cpu
