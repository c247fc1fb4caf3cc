#include "backend/host/host_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/host/log_softmax.h"

namespace nibble {
namespace {

class HostLogitsTest : public ::testing::Test {
 protected:
  HostLogitsTest() {
    const std::span<float> values = logits_.Resize(3);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(i * 2654435761u % 97) / 20.0f;
    }
    rows_.assign(values.begin(), values.end());
  }
  std::span<const float> Row(size_t row) const {
    return std::span(rows_).subspan(row * 1500, 1500);
  }

  ThreadPool pool_{2};
  HostLogits logits_{4, 1500, pool_};
  std::vector<float> rows_;
};

TEST_F(HostLogitsTest, ReadsWholeRows) {
  std::vector<float> two(2 * 1500);
  logits_.Read(1, two);
  EXPECT_TRUE(std::equal(two.begin(), two.end(), rows_.begin() + 1500));
}

TEST_F(HostLogitsTest, ScoresEveryRowsTarget) {
  logits_.Row(1)[7] = std::nanf("");
  const std::vector<int32_t> targets = {5, 6, 1499};
  std::vector<TokenScore> scores(3);
  logits_.Score(targets, scores);
  for (const size_t row : {0u, 2u}) {
    EXPECT_TRUE(scores[row].finite());
    EXPECT_EQ(scores[row].log_sum, LogSumExp(Row(row)));
    EXPECT_EQ(scores[row].best, ArgMax(Row(row)));
    EXPECT_EQ(scores[row].log_probability,
              static_cast<double>(Row(row)[targets[row]]) - scores[row].log_sum);
  }
  EXPECT_FALSE(scores[1].finite());  // and its mates are as they were
}

TEST_F(HostLogitsTest, SamplesEachRowByItsOwnParameters) {
  logits_.Row(2)[7] = std::nanf("");
  const SamplingParams greedy{.temperature = 0};
  const SamplingParams free{.temperature = 5};
  const std::vector<SamplingRow> rows = {
      {.params = &greedy}, {.params = &free, .seed = 11}, {.params = &free}};
  std::vector<Sampled> sampled(3);
  logits_.Sample(rows, sampled);
  EXPECT_EQ(sampled[0].token, ArgMax(Row(0)));
  std::vector<float> scratch(Row(1).begin(), Row(1).end());
  EXPECT_EQ(sampled[1].token, Sampler().Sample(rows[1], scratch).token);
  EXPECT_TRUE(sampled[0].finite() && sampled[1].finite());
  EXPECT_FALSE(sampled[2].finite());
}

}  // namespace
}  // namespace nibble
