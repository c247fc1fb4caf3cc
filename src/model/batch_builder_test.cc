#include "model/batch_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(BatchBuilder, LaysSequencesOutOneAfterAnother) {
  BatchBuilder builder;
  const std::vector<int32_t> prompt = {7, 8, 9};
  builder.Add(prompt, 0, std::vector<int32_t>{4}, 2);
  builder.Add(std::vector<int32_t>{5}, 33, std::vector<int32_t>{1, 6, 2}, 0);
  builder.Add(prompt, 10, std::vector<int32_t>{0, 3}, 3);  // a chunk in the middle: no logits
  EXPECT_EQ(builder.num_tokens(), 7);
  const Batch batch = builder.Take();
  EXPECT_THAT(batch.tokens, ElementsAre(7, 8, 9, 5, 7, 8, 9));
  EXPECT_THAT(batch.positions, ElementsAre(0, 1, 2, 33, 10, 11, 12));
  EXPECT_THAT(batch.starts, ElementsAre(0, 3, 4, 7));
  EXPECT_THAT(batch.context_lengths, ElementsAre(3, 34, 13));
  EXPECT_THAT(batch.logit_rows, ElementsAre(2, 3));
  EXPECT_EQ(batch.max_blocks, 3);
  EXPECT_THAT(batch.blocks(0)[0], 4);
  EXPECT_THAT(std::vector(batch.blocks(1).begin(), batch.blocks(1).end()), ElementsAre(1, 6, 2));
  EXPECT_THAT(std::vector(batch.blocks(2).begin(), batch.blocks(2).begin() + 2), ElementsAre(0, 3));
}

TEST(BatchBuilder, IsEmptyAgainOnceTaken) {
  BatchBuilder builder;
  builder.Add(std::vector<int32_t>{1, 2}, 0, std::vector<int32_t>{0, 1, 2}, 0);
  builder.Take();
  EXPECT_EQ(builder.num_tokens(), 0);
  builder.Add(std::vector<int32_t>{3}, 0, std::vector<int32_t>{9}, 1);
  const Batch batch = builder.Take();
  EXPECT_THAT(batch.starts, ElementsAre(0, 1));
  EXPECT_THAT(batch.block_table, ElementsAre(9));
  EXPECT_THAT(batch.logit_rows, IsEmpty());
}

}  // namespace
}  // namespace nibble
