#include "quantize/layer_work.h"

#include <gtest/gtest.h>

#include "backend/reference/reference_algebra.h"

namespace nibble {
namespace {

TEST(LayerWork, CountsTwoOperationsAMultiplyAdd) {
  ModelConfig config;
  config.hidden_size = 10;
  config.intermediate_size = 20;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 5;
  config.num_experts = 4;
  config.num_experts_per_token = 2;
  const std::vector<std::vector<int32_t>> sequences = {{1, 2, 3}};
  const TokenBatches batches = CutIntoBatches(sequences, 64);
  const LayerWork work = CountLayerWork(config, batches, false);
  // q 10x10, k and v 5x10, o 10x10; 1 + 2 + 3 keys, twice 10 values each.
  EXPECT_DOUBLE_EQ(work.attention * 1e9, 2 * 3 * 300 + 6 * 2 * 2 * 10);
  EXPECT_DOUBLE_EQ(work.gate_up * 1e9, 2 * 6 * 2 * 200);
  EXPECT_DOUBLE_EQ(work.down * 1e9, 2 * 6 * 200);
  EXPECT_DOUBLE_EQ(work.statistics * 1e9, 3 * (100 + 100) + 6 * (100 + 400));
  const LayerWork all = CountLayerWork(config, batches, true);
  EXPECT_DOUBLE_EQ(all.calibrated_gate_up, 2 * work.gate_up);
  EXPECT_DOUBLE_EQ(all.advance(), work.advance());
}

TEST(MeasureGflopPerSecond, FindsAPlausibleRate) {
  ReferenceAlgebra algebra;
  const double rate = MeasureGflopPerSecond(algebra);
  EXPECT_GT(rate, 0.001);
  EXPECT_LT(rate, 1e6);
}

}  // namespace
}  // namespace nibble
