#include "cli/bench_steps.h"

#include <gtest/gtest.h>

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

  const LinearWork decode = WorkOfStep(checkpoint, 1);
  EXPECT_DOUBLE_EQ(decode.float_flops, 2 * (kAttention + 2 * kExpert + kRouter + kHead));
  EXPECT_DOUBLE_EQ(decode.weight_bytes, 2 * (kAttention + 2 * kExpert + kRouter + kHead));
  EXPECT_EQ(decode.int4_ops + decode.int8_ops, 0);

  // Ten tokens: logits of the last only, and nearly every expert is read by one of them.
  const LinearWork prompt = WorkOfStep(checkpoint, 10);
  EXPECT_DOUBLE_EQ(prompt.float_flops, 2 * (10 * (kAttention + 2 * kExpert + kRouter) + kHead));
  EXPECT_NEAR(prompt.weight_bytes, 2 * (kAttention + 4 * kExpert + kRouter + kHead),
              2 * 4 * kExpert / 1000);
}

TEST(BenchSteps, CountsPackedWeightsByTheirBits) {
  const testing::TemporaryDirectory directory;
  testing::WriteRandomMixtral(Model(4), directory.path());
  const LinearWork work = WorkOfStep(Checkpoint(directory.path()), 1);
  EXPECT_DOUBLE_EQ(work.float_flops, 2 * (kRouter + kHead));
  EXPECT_DOUBLE_EQ(work.int4_ops, 2 * (kAttention + 2 * kExpert));
  const double packed = kAttention + 2 * kExpert;
  EXPECT_DOUBLE_EQ(work.weight_bytes, packed / 2 + packed / 32 * 2 + 2 * (kRouter + kHead));
}

TEST(BenchSteps, TheRoofIsTheSlowerOfReadingAndComputing) {
  const cpu::Roofline roofline{
      .read_bytes_per_second = 10, .float_flops_per_second = 100, .byte_dot_ops_per_second = 400};
  EXPECT_DOUBLE_EQ((LinearWork{.weight_bytes = 50}).MinimumSeconds(roofline), 5.0);
  const LinearWork busy{.weight_bytes = 1, .float_flops = 100, .int4_ops = 400, .int8_ops = 400};
  EXPECT_DOUBLE_EQ(busy.MinimumSeconds(roofline), 1.0 + 2.0 + 4.0);
}

TEST(BenchSteps, TimesStepsOfARealForward) {
  const testing::TemporaryDirectory directory;
  testing::WriteRandomMixtral(Model(4), directory.path());
  for (const int64_t tokens : {1, 20}) {
    const StepReport report = BenchSteps({.directory = directory.path().string(),
                                          .backend = {.threads = 1, .instruction_set = {}},
                                          .tokens = tokens,
                                          .context = 30,
                                          .repeats = 2});
    EXPECT_EQ(report.tokens, tokens);
    EXPECT_GT(report.seconds, 0.0);
    EXPECT_GT(report.share_of_roof(), 0.0);
  }
}

}  // namespace
}  // namespace nibble
