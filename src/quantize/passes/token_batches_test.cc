#include "quantize/passes/token_batches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<std::vector<int32_t>> Sequences(std::initializer_list<int> lengths) {
  std::vector<std::vector<int32_t>> sequences;
  int32_t next = 0;
  for (const int length : lengths) {
    std::vector<int32_t> sequence(length);
    std::iota(sequence.begin(), sequence.end(), next);
    next += length;
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

TEST(CutIntoBatches, PacksWholeSequencesInOrder) {
  const TokenBatches cut = CutIntoBatches(Sequences({20, 80, 160, 80, 4}), 256);
  ASSERT_THAT(cut.batches, SizeIs(2));
  EXPECT_EQ(cut.num_tokens, 344);
  EXPECT_EQ(cut.batches[0].first_token, 0);
  EXPECT_THAT(cut.batches[0].batch.starts, ElementsAre(0, 20, 100));
  EXPECT_EQ(cut.batches[1].first_token, 100);
  EXPECT_THAT(cut.batches[1].batch.starts, ElementsAre(0, 160, 240, 244));
  EXPECT_EQ(cut.num_blocks, 3 + 2 + 1);
  int32_t expected = 0;
  for (const TokenBatch& batch : cut.batches) {
    for (const int32_t token : batch.batch.tokens) EXPECT_EQ(token, expected++);
    EXPECT_EQ(batch.batch.positions.front(), 0);
  }
}

TEST(CutIntoBatches, ALongSequenceGoesAloneInPiecesThatShareItsPages) {
  const TokenBatches cut = CutIntoBatches(Sequences({40, 280, 40}), 128);
  ASSERT_THAT(cut.batches, SizeIs(5));
  const std::vector<int64_t> counts = {40, 128, 128, 24, 40};
  int64_t first = 0;
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(cut.batches[i].batch.num_tokens(), counts[i]);
    EXPECT_EQ(cut.batches[i].first_token, first);
    first += counts[i];
  }
  EXPECT_EQ(cut.batches[2].batch.positions.front(), 128);
  EXPECT_THAT(cut.batches[2].batch.context_lengths, ElementsAre(256));
  EXPECT_THAT(cut.batches[3].batch.block_table, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(cut.num_blocks, 5);
}

TEST(CutIntoBatches, NothingGivesNothing) {
  EXPECT_THAT(CutIntoBatches({}, 32).batches, IsEmpty());
}

TEST(FirstTokens, TakesWholeSequencesAndCutsTheLast) {
  const auto first = FirstTokens(Sequences({5, 4, 9}), 12);
  ASSERT_THAT(first, SizeIs(3));
  EXPECT_THAT(first[2], ElementsAre(9, 10, 11));
  // One token of a sequence would predict nothing.
  EXPECT_THAT(FirstTokens(Sequences({5, 4, 9}), 10), SizeIs(2));
}

TEST(BatchTokens, FollowsTheModelsShape) {
  ModelConfig config;
  config.num_experts_per_token = 2;
  config.intermediate_size = 384;
  EXPECT_EQ(BatchTokens(config), 4096);
  config.intermediate_size = 16384;
  EXPECT_EQ(BatchTokens(config), 2048);
}

}  // namespace
}  // namespace nibble
