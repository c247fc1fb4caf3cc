#include "bench/steps.h"

#include <gtest/gtest.h>

#include "model/packed_weights.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

testing::RandomMixtral Model(int bits) {
  testing::RandomMixtral model;
  model.hidden_size = 64;
  model.intermediate_size = 96;
  model.num_layers = 1;
  model.num_heads = 4;
  model.num_kv_heads = 2;
  model.head_dim = 16;
  model.num_experts = 4;
  model.num_experts_per_token = 2;
  model.vocab_size = 100;
  model.bits = bits;
  model.group_size = 32;
  return model;
}

constexpr double kAttention = 64 * 64 * 2 + 32 * 64 * 2;  // weights
constexpr double kExpert = 3 * 64 * 96;
constexpr double kRouter = 4 * 64;
constexpr double kHead = 100 * 64;

TEST(BenchSteps, CountsTheWorkOfADenseStep) {
  const testing::TemporaryDirectory directory;
  testing::WriteRandomMixtral(Model(0), directory.path());
  const Checkpoint checkpoint(directory.path());

  const StepWork decode = WorkOfStep(checkpoint, {}, DType::kF32);
  EXPECT_DOUBLE_EQ(decode.float_flops, 2 * (kAttention + 2 * kExpert + kRouter + kHead));
  EXPECT_DOUBLE_EQ(decode.weight_bytes, 2 * (kAttention + 2 * kExpert + kRouter + kHead));
  EXPECT_EQ(decode.packed_ops, 0);
  EXPECT_EQ(decode.cache_bytes, 0);

  // Ten tokens: logits of the last only, and nearly every expert is chosen by at least one of them.
  const StepWork prompt = WorkOfStep(checkpoint, {.tokens = 10}, DType::kF32);
  EXPECT_DOUBLE_EQ(prompt.float_flops, 2 * (10 * (kAttention + 2 * kExpert + kRouter) + kHead));
  EXPECT_NEAR(prompt.weight_bytes, 2 * (kAttention + 4 * kExpert + kRouter + kHead),
              2 * 4 * kExpert / 1000);

  // Ten sequences of one token: as many tokens, but each has logits and a context of its own.
  const StepWork batch =
      WorkOfStep(checkpoint, {.sequences = 10, .tokens = 1, .context = 7}, DType::kBF16);
  EXPECT_DOUBLE_EQ(batch.float_flops, prompt.float_flops + 9 * 2 * kHead);
  EXPECT_DOUBLE_EQ(batch.weight_bytes, prompt.weight_bytes);
  EXPECT_DOUBLE_EQ(batch.cache_bytes, 10 * 7 * 2 * 2 * 16 * 2);
}

TEST(BenchSteps, CountsPackedWeightsByTheirBits) {
  const testing::TemporaryDirectory directory;
  testing::WriteRandomMixtral(Model(4), directory.path());
  const StepWork work = WorkOfStep(Checkpoint(directory.path()), {}, DType::kF32);
  EXPECT_DOUBLE_EQ(work.float_flops, 2 * (kRouter + kHead));
  EXPECT_DOUBLE_EQ(work.packed_ops, 2 * (kAttention + 2 * kExpert));
  const double packed = kAttention + 2 * kExpert;
  EXPECT_DOUBLE_EQ(work.weight_bytes, packed / 2 + packed / 32 * 2 + 2 * (kRouter + kHead));
}

TEST(BenchSteps, TheRoofIsTheSlowerOfReadingAndComputing) {
  const cpu::Roofline roofline{
      .read_bytes_per_second = 10, .float_flops_per_second = 100, .byte_dot_ops_per_second = 400};
  EXPECT_DOUBLE_EQ((StepWork{.weight_bytes = 30, .cache_bytes = 20}).MinimumSeconds(roofline, 16),
                   5.0);
  const StepWork busy{.weight_bytes = 1, .float_flops = 100, .packed_ops = 400};
  EXPECT_DOUBLE_EQ(busy.MinimumSeconds(roofline, 16), 1.0 + 2.0);
  EXPECT_DOUBLE_EQ(busy.MinimumSeconds(roofline, 8), 1.0 + 1.0);
}

TEST(BenchSteps, TimesStepsOfARealForward) {
  const testing::TemporaryDirectory directory;
  testing::WriteRandomMixtral(Model(4), directory.path());
  for (const StepShape shape : {StepShape{.sequences = 1, .tokens = 1, .context = 30},
                                StepShape{.sequences = 3, .tokens = 1, .context = 30},
                                StepShape{.sequences = 1, .tokens = 20, .context = 0}}) {
    const StepReport report = BenchSteps({.directory = directory.path().string(),
                                          .backend = {.threads = 1, .instruction_set = {}},
                                          .shape = shape,
                                          .repeats = 2});
    EXPECT_EQ(report.shape.total_tokens(), shape.total_tokens());
    EXPECT_GT(report.seconds, 0.0);
    EXPECT_GT(report.share_of_roof(), 0.0);
    EXPECT_GT(report.bandwidth_share(), 0.0);
  }
}

TEST(BenchLoad, TellsMappedWeightsFromRepackedOnes) {
  const testing::TemporaryDirectory directory;
  testing::WriteRandomMixtral(Model(4), directory.path());
  const LoadBenchOptions options{.directory = directory.path().string(),
                                 .backend = {.threads = 1, .instruction_set = {}},
                                 .repeats = 2};
  const LoadReport repacked = BenchLoad(options);
  EXPECT_FALSE(repacked.packed);
  EXPECT_GT(repacked.seconds, 0.0);
  EXPECT_GT(repacked.share_of_roof(), 0.0);

  const auto backend = MakeBackend("cpu", options.backend);
  WritePackedWeights(Checkpoint(directory.path()), *backend,
                     directory.path() / PackedWeights::kFileName);
  const LoadReport mapped = BenchLoad(options);
  EXPECT_TRUE(mapped.packed);
  EXPECT_GT(mapped.weight_bytes, 0);
  EXPECT_EQ(mapped.weight_bytes, repacked.weight_bytes);
}

}  // namespace
}  // namespace nibble
