// Not covered by the cases of cuda/cases: a token's bits do not depend on its batch mates.
#include "backend/cuda/w4/gemm_int4.cuh"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "backend/cuda/cases/problem.h"

namespace nibble::cuda {
namespace {

constexpr int64_t kRows = 192;
constexpr int64_t kCols = 384;

std::vector<std::byte> RandomWeights(const W4Layout& layout, int64_t count) {
  bench::Random random(1);
  std::vector<std::byte> bytes(static_cast<size_t>(layout.size_bytes() * count));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.Below(256));
  for (int64_t record = 0; record < layout.size_bytes() * count; record += kW4RecordBytes) {
    for (int64_t r = 0; r < kW4RecordRows; ++r) {
      const BFloat16 scale(static_cast<float>(0.01 + 0.01 * random.Uniform()));
      std::memcpy(&bytes[static_cast<size_t>(record + kW4ScaleOffset + 2 * r)], &scale,
                  sizeof scale);
    }
  }
  return bytes;
}

// The products of tokens [first, first + count) of `x`, all with expert 1 of two.
std::vector<float> Multiply(const W4Layout& layout, const std::vector<std::byte>& weights,
                            const std::vector<__nv_bfloat16>& x, int32_t first, int32_t count,
                            int32_t splits, int32_t num_ctas,
                            decltype(&LaunchSkinnyW4Gemm) launch = LaunchSkinnyW4Gemm) {
  const int32_t offsets[] = {0, 0, count};
  std::vector<float> out(static_cast<size_t>(count * kRows), -1);
  W4GemmArgs args = {};
  args.layout = layout;
  args.weights = weights.data();
  args.num_experts = 2;
  args.offsets = offsets;
  args.num_rows = count;
  args.max_rows_per_expert = count;
  args.x = x.data() + first * kCols;
  args.x_rows_per = 1;
  args.output = W4Output::kF32;
  args.out = out.data();
  SkinnyPlan plan = {};
  plan.num_ctas = num_ctas;
  plan.splits = splits;
  plan.shared_bytes = 227 * 1024;
  std::vector<float> workspace(static_cast<size_t>(WorkspaceFloats(args, plan)));
  std::vector<uint32_t> flags(static_cast<size_t>(WorkspaceFlags(args, plan)));
  plan.workspace = workspace.data();
  plan.flags = flags.data();
  EXPECT_EQ(launch(args, plan, nullptr), cudaSuccess);
  for (const uint32_t flag : flags) EXPECT_EQ(flag, 0u);
  return out;
}

TEST(SkinnyW4Gemm, FixedSlicesGiveATokenTheSameBitsInAnyBatch) {
  const W4Layout layout = MakeW4Layout(kRows, kCols);
  const std::vector<std::byte> weights = RandomWeights(layout, 2);
  bench::Random random(2);
  const std::vector<__nv_bfloat16> x = random.Bf16(20 * kCols, 1);
  const std::vector<float> together = Multiply(layout, weights, x, 0, 20, 3, 7);
  for (const int32_t token : {0, 8, 19}) {
    for (const int32_t num_ctas : {1, 11}) {
      const std::vector<float> alone = Multiply(layout, weights, x, token, 1, 3, num_ctas);
      for (size_t row = 0; row < alone.size(); ++row) {
        ASSERT_EQ(alone[row], together[static_cast<size_t>(token) * alone.size() + row])
            << token << " " << row;
      }
    }
  }
}

TEST(SkinnyW4Gemm, BulkCopiesGiveTheSameBits) {
  const W4Layout layout = MakeW4Layout(kRows, kCols);
  const std::vector<std::byte> weights = RandomWeights(layout, 2);
  bench::Random random(3);
  const std::vector<__nv_bfloat16> x = random.Bf16(20 * kCols, 1);
  for (const int32_t splits : {0, 2}) {
    EXPECT_EQ(Multiply(layout, weights, x, 0, 20, splits, 5, LaunchBulkW4Gemm),
              Multiply(layout, weights, x, 0, 20, splits, 5));
  }
}

TEST(SkinnyW4Gemm, WhatCannotRunIsRefused) {
  const W4Layout layout = MakeW4Layout(64, 128);
  W4GemmArgs args = {};
  args.layout = layout;
  args.num_experts = kMaxW4Experts + 1;
  args.num_rows = 1;
  args.max_rows_per_expert = 1;
  SkinnyPlan plan = {};
  plan.num_ctas = 1;
  plan.shared_bytes = 227 * 1024;
  EXPECT_EQ(LaunchSkinnyW4Gemm(args, plan, nullptr), cudaErrorInvalidValue);
  args.num_experts = 1;
  plan.splits = 2;  // of one group
  EXPECT_EQ(LaunchSkinnyW4Gemm(args, plan, nullptr), cudaErrorInvalidValue);
  plan.splits = 0;
  plan.shared_bytes = 32 * 1024;
  EXPECT_EQ(LaunchSkinnyW4Gemm(args, plan, nullptr), cudaErrorInvalidValue);
  args.num_rows = 0;
  EXPECT_EQ(LaunchSkinnyW4Gemm(args, plan, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace nibble::cuda
