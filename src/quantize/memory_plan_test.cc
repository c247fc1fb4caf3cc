#include "quantize/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig Mixtral8x22B() {
  ModelConfig config;
  config.vocab_size = 32000;
  config.hidden_size = 6144;
  config.intermediate_size = 16384;
  config.num_layers = 56;
  config.num_heads = 48;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  config.num_experts = 8;
  config.num_experts_per_token = 2;
  return config;
}

class MemoryPlanTest : public ::testing::Test {
 protected:
  MemoryPlanTest() { SetTokens(4096); }

  void SetTokens(int64_t tokens) {
    batches_.max_tokens = 2048;
    batches_.num_tokens = tokens;
    batches_.num_blocks = 160;
  }

  QuantizePlan Plan(int64_t budget) {
    QuantizePlan plan;
    PlanMemory({.config = &config_,
                .recipe = &recipe_,
                .batches = &batches_,
                .probe_tokens = 1024,
                .dense_bytes_per_weight = 2,
                .threads = 2,
                .all_experts = false,
                .top_up = top_up_,
                .budget_bytes = budget},
               plan);
    int64_t sum = 0;
    for (const QuantizePlan::Item& item : plan.memory) sum += item.bytes;
    EXPECT_EQ(sum, plan.memory_bytes);
    EXPECT_EQ(plan.lacking.empty(), sum <= budget);
    return plan;
  }

  ModelConfig config_ = Mixtral8x22B();
  Recipe recipe_;
  TokenBatches batches_;
  bool top_up_ = false;
};

constexpr int64_t kGiB = int64_t{1} << 30;

TEST_F(MemoryPlanTest, ALayerOf8x22BFitsInEightGibibytesOneExpertAtATime) {
  const QuantizePlan plan = Plan(8 * kGiB);
  EXPECT_GE(plan.experts_at_once, 1);
  EXPECT_LT(plan.experts_at_once, 8);
  EXPECT_FALSE(plan.activations_in_file);
  EXPECT_EQ(Plan(100 * kGiB).experts_at_once, 8);
  EXPECT_GT(Plan(100 * kGiB).memory_bytes, 8 * kGiB);
}

TEST_F(MemoryPlanTest, ManyTokensGoToAFile) {
  SetTokens(350'000);  // 8.6 GB, twice
  const QuantizePlan plan = Plan(8 * kGiB);
  EXPECT_TRUE(plan.activations_in_file);
  EXPECT_EQ(plan.scratch_disk_bytes, int64_t{2} * 350'000 * 6144 * 4);
  EXPECT_EQ(Plan(64 * kGiB).scratch_disk_bytes, 0);
}

TEST_F(MemoryPlanTest, TooLittleIsToldWithTheNumbersAndThePlanIsWhole) {
  const QuantizePlan plan = Plan(kGiB);
  EXPECT_THAT(plan.lacking, ElementsAre(AllOf(HasSubstr("one expert at a time needs"),
                                              HasSubstr("1.1 GB"), HasSubstr("`memory_bytes`"))));
  EXPECT_EQ(plan.experts_at_once, 1);
  EXPECT_TRUE(plan.activations_in_file);
  EXPECT_GT(plan.scratch_disk_bytes, 0);
}

TEST_F(MemoryPlanTest, RoundingNeedsNoHessians) {
  recipe_.method = Method::kRoundToNearest;
  EXPECT_LT(Plan(8 * kGiB).memory_bytes, 6 * kGiB);
}

TEST_F(MemoryPlanTest, ToppingUpKeepsTheActivationsBetweenAttentionAndExperts) {
  const auto activations = [&] {
    for (const QuantizePlan::Item& item : Plan(100 * kGiB).memory) {
      if (item.name == "activations of all tokens") return item.bytes;
    }
    return int64_t{0};
  };
  const int64_t once = activations();
  EXPECT_EQ(once, int64_t{4096} * 6144 * 4);
  top_up_ = true;
  EXPECT_EQ(activations(), 2 * once);
}

}  // namespace
}  // namespace nibble
