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

Choice Choose(const std::vector<float>& logits, size_t top_k) {
  Choice choice{std::vector<int32_t>(top_k), std::vector<float>(top_k)};
  ChooseExperts(logits, choice.experts, choice.weights);
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
  EXPECT_TRUE(std::isnan(Choose({kNan, 1.0f}, 1).weights[0]));  // and the fault stays visible
}

}  // namespace
}  // namespace nibble::cpu
