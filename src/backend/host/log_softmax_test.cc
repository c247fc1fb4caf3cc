#include "backend/host/log_softmax.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace nibble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> RandomLogits(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 5);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

// Sizes around a block: below, on and above its edge.
TEST(LogSumExp, IsTheSumOfAllExponentials) {
  for (const size_t count : {1u, 7u, 1023u, 1024u, 1025u, 5000u}) {
    const std::vector<float> logits = RandomLogits(count, 1);
    long double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
    EXPECT_NEAR(LogSumExp(logits), static_cast<double>(std::log(sum)), 1e-13) << count;
  }
}

TEST(LogSumExp, SurvivesLargeAndTinyLogits) {
  EXPECT_DOUBLE_EQ(LogSumExp(std::vector<float>{3e38f, 3e38f}),
                   static_cast<double>(3e38f) + std::log(2.0));
  EXPECT_DOUBLE_EQ(LogSumExp(std::vector<float>{-3e38f}), static_cast<double>(-3e38f));
  std::vector<float> masked(3000, -kInfinity);
  masked[2999] = 1;  // whole blocks are masked
  EXPECT_DOUBLE_EQ(LogSumExp(masked), 1);
}

TEST(LogSumExp, IsNotFiniteWhereALogitIsNot) {
  for (const float bad : {std::nanf(""), kInfinity}) {
    for (const size_t at : {0u, 5u, 1024u, 2999u}) {
      std::vector<float> logits(3000, 0.5f);
      logits[at] = bad;
      EXPECT_FALSE(std::isfinite(LogSumExp(logits))) << bad << " at " << at;
    }
  }
  EXPECT_FALSE(std::isfinite(LogSumExp(std::vector<float>(2000, -kInfinity))));
}

// What ranks that share a vocabulary rely on: blocks summed anywhere give the bits of the whole.
TEST(LogSumExp, BlocksSummedApartGiveTheSameBits) {
  const std::vector<float> logits = RandomLogits(10 * kLogBlock + 77, 3);
  std::vector<LogBlock> blocks;
  for (size_t first = 0; first < logits.size(); first += kLogBlock) {
    blocks.push_back(SumLogBlock(
        std::span(logits).subspan(first, std::min<size_t>(kLogBlock, logits.size() - first))));
  }
  EXPECT_EQ(FoldLogBlocks(blocks), LogSumExp(logits));
}

TEST(ArgMax, GivesATieToTheLowestIndex) {
  EXPECT_EQ(ArgMax(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(ArgMax(std::vector<float>{-1}), 0);
}

TEST(CompareRows, MeasuresWhatTheModelLost) {
  const std::vector<float> half = {0, 0};
  const std::vector<float> skewed = {std::log(3.0f), 0};  // 3/4, 1/4
  const RowComparison comparison = CompareRows(half, skewed, 1);
  EXPECT_NEAR(comparison.baseline_log_probability, std::log(0.5), 1e-7);
  EXPECT_NEAR(comparison.log_probability, std::log(0.25), 1e-7);
  EXPECT_NEAR(comparison.kl, 0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(0.5 / 0.25), 1e-7);
  EXPECT_TRUE(comparison.same_top);
  EXPECT_TRUE(comparison.finite());
  EXPECT_EQ(CompareRows(skewed, skewed, 0).kl, 0);
  EXPECT_FALSE(CompareRows(half, std::vector<float>{std::nanf(""), 0}, 1).finite());
}

}  // namespace
}  // namespace nibble
