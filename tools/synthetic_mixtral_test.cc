#include "tools/synthetic_mixtral.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/float16.h"
#include "checkpoint/checkpoint.h"
#include "nibble/error.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

class SyntheticMixtral : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.shape = {.hidden = 128,
                      .intermediate = 384,
                      .layers = 2,
                      .heads = 4,
                      .kv_heads = 2,
                      .head_dim = 32,
                      .experts = 3,
                      .experts_per_token = 2,
                      .vocab = 77};
  }

  testing::TemporaryDirectory scratch_;
  const std::filesystem::path directory_ = scratch_.path() / "model";
  SyntheticOptions options_;
};

TEST_F(SyntheticMixtral, AnySplitGivesTheSameBytes) {
  const SyntheticTensor tensor{"t", DType::kBF16, {11, 9}, Content::kNormal, 0.5, {}};
  std::vector<std::byte> whole(198);
  FillTensor(tensor, 7, 0, whole);
  std::vector<std::byte> pieces(198);
  const std::span<std::byte> out(pieces);
  FillTensor(tensor, 7, 0, out.first(64));
  FillTensor(tensor, 7, 64, out.subspan(64, 8));
  FillTensor(tensor, 7, 72, out.subspan(72));
  EXPECT_EQ(whole, pieces);

  FillTensor(tensor, 8, 0, pieces);
  EXPECT_NE(whole, pieces);
}

TEST_F(SyntheticMixtral, WeightsAreNormallyDistributed) {
  const SyntheticTensor tensor{"t", DType::kBF16, {1024, 256}, Content::kNormal, 0.25, {}};
  std::vector<BFloat16> values(1024 * 256);
  FillTensor(tensor, 42, 0, std::as_writable_bytes(std::span(values)));
  double sum = 0;
  double squares = 0;
  double beyond_two_sigma = 0;
  for (const BFloat16 value : values) {
    const auto x = static_cast<double>(static_cast<float>(value));
    sum += x;
    squares += x * x;
    beyond_two_sigma += std::abs(x) > 0.5 ? 1 : 0;
  }
  const auto count = static_cast<double>(values.size());
  EXPECT_NEAR(sum / count, 0, 0.002);
  EXPECT_NEAR(std::sqrt(squares / count), 0.25, 0.001);
  EXPECT_NEAR(beyond_two_sigma / count, 0.0455, 0.002);
}

TEST_F(SyntheticMixtral, DenseModelOpensWithEveryTensor) {
  options_.max_shard_bytes = 300'000;
  ThreadPool pool(3);
  const int64_t bytes = WriteSyntheticModel(options_, directory_, pool);
  const Checkpoint checkpoint(directory_);
  EXPECT_EQ(checkpoint.total_bytes(), bytes);
  EXPECT_GT(checkpoint.num_shards(), 1);
  EXPECT_EQ(checkpoint.names().size(), PlanTensors(options_).size());
  EXPECT_EQ(checkpoint.config().num_experts, 3);
  for (const SyntheticTensor& tensor : PlanTensors(options_)) {
    const TensorView view = checkpoint.Get(tensor.name, tensor.shape);
    std::vector<std::byte> expected(tensor.size_bytes());
    FillTensor(tensor, options_.seed, 0, expected);
    EXPECT_EQ(std::memcmp(view.data(), expected.data(), expected.size()), 0) << tensor.name;
  }
}

TEST_F(SyntheticMixtral, PackedModelOpensWithValidLinears) {
  options_.packed = true;
  ThreadPool pool(2);
  WriteSyntheticModel(options_, directory_, pool);
  const Checkpoint checkpoint(directory_);
  ASSERT_TRUE(checkpoint.quant_config().has_value());
  const PackedView view =
      checkpoint.GetPacked("model.layers.1.block_sparse_moe.experts.2.w2", 128, 384);
  EXPECT_EQ(view.num_groups(), 3);
  double squares = 0;
  for (const float weight : Dequantize(view)) squares += static_cast<double>(weight) * weight;
  EXPECT_NEAR(std::sqrt(squares / (128 * 384)) * std::sqrt(384.0), 1.0, 0.1);
}

TEST_F(SyntheticMixtral, RefusesImpossibleShapesAndFullDirectories) {
  ThreadPool pool(1);
  SyntheticOptions odd = options_;
  odd.packed = true;
  odd.shape.intermediate = 200;
  EXPECT_THROW(WriteSyntheticModel(odd, directory_, pool), Error);
  EXPECT_FALSE(std::filesystem::exists(directory_ / "config.json"));

  WriteSyntheticModel(options_, directory_, pool);
  EXPECT_THAT([&] { WriteSyntheticModel(options_, directory_, pool); },
              ::testing::ThrowsMessage<Error>(::testing::HasSubstr("is not empty")));
}

}  // namespace
}  // namespace nibble
