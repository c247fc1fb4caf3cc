#include "backend/cuda/graph_batch.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace nibble::cuda {
namespace {

TEST(GraphBatch, IsTheLeastThatHoldsTheRows) {
  EXPECT_TRUE(std::is_sorted(kGraphBatches.begin(), kGraphBatches.end()));
  for (int32_t rows = 1; rows <= kGraphBatches.back(); ++rows) {
    const int32_t batch = GraphBatchFor(rows);
    EXPECT_GE(batch, rows);
    for (const int32_t other : kGraphBatches) EXPECT_FALSE(other >= rows && other < batch) << rows;
  }
  EXPECT_EQ(GraphBatchFor(kGraphBatches.back() + 1), 0);
  EXPECT_EQ(GraphBatchFor(0), 0);
}

TEST(GraphBatch, PaddingLeavesRowsAloneAndForgetsEarlierSteps) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 200; ++trial) {
    const int32_t rows = static_cast<int32_t>(random() % 256 + 1);
    const auto batch = static_cast<size_t>(GraphBatchFor(rows));
    const auto max_pages = static_cast<size_t>(random() % 5 + 1);
    std::vector<std::vector<int32_t>> arrays(5, std::vector<int32_t>(batch));
    arrays[3].resize(batch * max_pages);
    for (auto& array : arrays) {
      for (int32_t& value : array) value = static_cast<int32_t>(random() % 1000 + 5);
    }
    const auto before = arrays;
    PadInputs(rows, {.tokens = arrays[0],
                     .positions = arrays[1],
                     .sequences = arrays[2],
                     .pages = arrays[3],
                     .logit_rows = arrays[4],
                     .max_pages = static_cast<int32_t>(max_pages)});
    for (size_t a = 0; a < arrays.size(); ++a) {
      const size_t real = static_cast<size_t>(rows) * (a == 3 ? max_pages : 1);
      for (size_t i = 0; i < arrays[a].size(); ++i) {
        const int32_t expected = i < real ? before[a][i] : a == 2 ? kPaddingRow : 0;
        ASSERT_EQ(arrays[a][i], expected) << "array " << a << " element " << i;
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
