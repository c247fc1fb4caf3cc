#include "model/sharded_backend.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "backend/make_backend.h"
#include "dist/thread_group.h"
#include "model/batch_builder.h"
#include "model/model.h"
#include "tests/support/paths.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using testing::RandomMixtral;
using testing::RandomTokens;

// A prompt in two chunks beside another prompt, then single tokens of both: all logits.
std::vector<float> Run(Model& model) {
  const int64_t vocab = model.spec().vocab_size;
  const std::vector<int32_t> a = RandomTokens(90, vocab, 1), b = RandomTokens(33, vocab, 2);
  const std::vector<int32_t> a_blocks = {3, 0}, b_blocks = {2};
  const auto kv = model.MakeKvPages(4);
  std::vector<float> all, logits;
  const auto step = [&](int64_t a_first, int64_t a_count, int64_t b_first, int64_t b_count) {
    BatchBuilder builder;
    const auto add = [&](const std::vector<int32_t>& tokens, int64_t first, int64_t count,
                         const std::vector<int32_t>& blocks) {
      if (count == 0) return;
      builder.Add(std::span(tokens).subspan(first, count), first, blocks, 0);
    };
    add(a, a_first, a_count, a_blocks);
    add(b, b_first, b_count, b_blocks);
    model.Forward(builder.Take(), *kv, logits);
    all.insert(all.end(), logits.begin(), logits.end());
  };
  step(0, 50, 0, 0);
  step(50, 38, 0, 32);
  step(88, 1, 32, 1);
  step(89, 1, 0, 0);
  return all;
}

std::unique_ptr<Backend> Inner() {
  return MakeBackend("cpu", {.threads = 1, .instruction_set = {}});
}

std::vector<float> RunOnRanks(const Checkpoint& checkpoint, int64_t size) {
  ThreadGroup group(size);
  std::vector<std::vector<float>> logits(size);
  std::vector<std::jthread> threads;
  for (int64_t r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      const auto inner = Inner();
      const ModelSpec spec = SpecOf(checkpoint.config());
      ShardedBackend backend(*inner, group.rank(r), spec);
      Model model(checkpoint, backend, 128);
      logits[r] = Run(model);
    });
  }
  threads.clear();
  for (const auto& of_rank : logits) EXPECT_EQ(of_rank, logits.front());  // every rank has them all
  return logits.front();
}

void ExpectTheBitsOfOneProcess(const Checkpoint& checkpoint) {
  const auto backend = Inner();
  Model model(checkpoint, *backend, 128);
  const std::vector<float> alone = Run(model);
  for (const int64_t size : {1, 2, 3, 5}) {
    const std::vector<float> together = RunOnRanks(checkpoint, size);
    ASSERT_EQ(together.size(), alone.size());
    EXPECT_EQ(std::memcmp(together.data(), alone.data(), alone.size() * sizeof(float)), 0)
        << size << " ranks";
  }
}

TEST(ShardedBackend, TheDemonstrationModelHasTheBitsOfOneProcessOnAnyRanks) {
  ExpectTheBitsOfOneProcess(Checkpoint(std::filesystem::path(kSourceDir) / "demo/tinymix"));
}

// Heads, widths and a vocabulary that no number of ranks divides; packed weights, some with zero
// points; more ranks than KV heads.
TEST(ShardedBackend, SoHaveOddShapesAndPackedWeights) {
  for (const int bits : {0, 4}) {
    const testing::TemporaryDirectory directory;
    WriteRandomMixtral(RandomMixtral{.vocab_size = 999,
                                     .hidden_size = 144,
                                     .intermediate_size = 200,
                                     .num_heads = 9,
                                     .num_kv_heads = 3,
                                     .head_dim = 16,
                                     .sliding_window = 40,
                                     .bits = bits,
                                     .group_size = 8},
                       directory.path());
    ExpectTheBitsOfOneProcess(Checkpoint(directory.path()));
  }
}

}  // namespace
}  // namespace nibble
