// The oracle against numbers worked out by hand; it is compared with a whole naive model and with
// recorded outputs in src/model.
#include "backend/reference/reference_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::FloatNear;
using ::testing::Pointwise;

class ReferenceBackendTest : public ::testing::Test {
 protected:
  std::unique_ptr<Weight> MakeWeight(const std::vector<float>& values, int64_t rows) {
    const int64_t cols = static_cast<int64_t>(values.size()) / rows;
    return backend_.Prepare(Tensor::FromVector(values, Shape{rows, cols}).view(),
                            Role::kProjection);
  }
  Activation MakeActivation(const std::vector<float>& values, int64_t cols) {
    Activation x = backend_.MakeActivation(static_cast<int64_t>(values.size()) / cols, cols);
    x.rows = static_cast<int64_t>(values.size()) / cols;
    backend_.Upload(values, x);
    return x;
  }
  std::vector<float> Values(const Activation& x) {
    std::vector<float> values(static_cast<size_t>(x.rows * x.cols));
    backend_.Download(x, values);
    return values;
  }

  ReferenceBackend backend_;
};

// Tokens at consecutive positions of one sequence in block 0.
Batch OneSequence(int32_t first, int32_t count) {
  Batch batch;
  for (int32_t i = 0; i < count; ++i) {
    batch.tokens.push_back(i);
    batch.positions.push_back(first + i);
  }
  batch.starts = {0, count};
  batch.context_lengths = {first + count};
  batch.block_table = {0};
  batch.max_blocks = 1;
  return batch;
}

TEST_F(ReferenceBackendTest, PreparesDenseAndPackedWeightsAlike) {
  const std::vector<int8_t> codes = {-8, -1, 0, 7, 1, 2, 3, 4};
  PackedTensor packed;
  packed.rows = 2;
  packed.cols = 4;
  packed.group_size = 2;
  packed.packed = PackCodes(codes, 2, 4, 4);
  packed.scales = Tensor::FromVector(std::vector<float>{0.5f, 2, 1, 3}, Shape{2, 2});
  const auto weight = backend_.Prepare(packed.view(), Role::kProjection);
  EXPECT_EQ(weight->rows(), 2);
  EXPECT_EQ(weight->cols(), 4);
  Activation x = MakeActivation({0, 0}, 2);
  backend_.ProjectResidual(MakeActivation({1, 10, 100, 1000}, 4), *weight, x);
  EXPECT_THAT(Values(x), ElementsAre(-4 - 5 + 0 + 14000, 1 + 20 + 900 + 12000));
}

TEST_F(ReferenceBackendTest, RotatesPairsHalfAHeadApart) {
  // One head of 4; identity projections, so q is the normed input rotated.
  const auto norm = MakeWeight({1, 1, 1, 1}, 1);
  const auto identity = MakeWeight({1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, 4);
  const std::vector<float> frequencies = {1.0f, 0.5f};
  const AttentionWeights weights{.norm = norm.get(),
                                 .q = identity.get(),
                                 .k = identity.get(),
                                 .v = identity.get(),
                                 .num_heads = 1,
                                 .num_kv_heads = 1,
                                 .head_dim = 4,
                                 .norm_eps = 0,
                                 .inverse_frequencies = frequencies};
  std::vector<float> pages(2 * 8 * 4);
  const KvPages kv{
      .data = pages.data(), .num_blocks = 1, .block_size = 8, .num_kv_heads = 1, .head_dim = 4};
  const Batch batch = OneSequence(3, 1);
  Activation normed = backend_.MakeActivation(1, 4);
  Activation q = backend_.MakeActivation(1, 4);
  backend_.BeginStep(batch);
  backend_.NormQkvRopeStore(MakeActivation({2, 2, 2, -2}, 4), weights, kv, normed, q);
  backend_.EndStep();
  EXPECT_THAT(Values(normed), ElementsAre(1, 1, 1, -1));
  const float c = std::cos(3.0f);
  const float s = std::sin(3.0f);
  const float c2 = std::cos(1.5f);
  const float s2 = std::sin(1.5f);
  EXPECT_THAT(Values(q), Pointwise(FloatNear(1e-6f), {c - s, c2 + s2, c + s, s2 - c2}));
  // The key is rotated, the value is not; both lie in slot 3 of 8.
  EXPECT_EQ((std::vector{pages[3], pages[8 + 3], pages[16 + 3], pages[24 + 3]}), Values(q));
  EXPECT_EQ(std::vector(pages.begin() + 32 + 12, pages.begin() + 32 + 16), Values(normed));
}

TEST_F(ReferenceBackendTest, AttendsToThePastWithinTheWindow) {
  // Two query heads share one kv head of 1; keys are ln 1, ln 2, ln 4 at positions 0..2.
  const std::vector<float> pages = {0,
                                    std::log(2.0f),
                                    std::log(4.0f),
                                    0,  // keys of 4 slots
                                    100,
                                    10,
                                    1,
                                    0};  // values
  const KvPages kv{.data = const_cast<float*>(pages.data()),
                   .num_blocks = 1,
                   .block_size = 4,
                   .num_kv_heads = 1,
                   .head_dim = 1};
  const Batch batch = OneSequence(1, 2);
  const Activation q = MakeActivation({1, 0, 1, 0}, 2);
  Activation out = backend_.MakeActivation(2, 2);
  backend_.BeginStep(batch);
  backend_.Attention(q, kv, 0, out);
  EXPECT_THAT(Values(out), Pointwise(FloatNear(1e-4f),
                                     {(100 + 20) / 3.0f, 55.0f, (100 + 20 + 4) / 7.0f, 37.0f}));
  backend_.Attention(q, kv, 2, out);
  backend_.EndStep();
  EXPECT_THAT(Values(out),
              Pointwise(FloatNear(1e-4f), {(100 + 20) / 3.0f, 55.0f, (20 + 4) / 6.0f, 5.5f}));
}

TEST_F(ReferenceBackendTest, RoutesToTheLargestLogitsLowerIndexFirst) {
  const auto norm = MakeWeight({1, 1}, 1);
  const auto router = MakeWeight({0, 0, 1, 1, 2, 0, 0, 2}, 4);  // logits of (1, 1): 0, 2, 2, 2
  Activation h = backend_.MakeActivation(1, 2);
  Routing routing;
  backend_.NormRoute(MakeActivation({5, 5}, 2),
                     {.norm = norm.get(), .router = router.get(), .top_k = 3, .norm_eps = 0}, h,
                     routing);
  EXPECT_THAT(routing.logits, ElementsAre(0, 2, 2, 2));
  EXPECT_THAT(routing.experts, ElementsAre(1, 2, 3));
  EXPECT_THAT(routing.weights, Pointwise(FloatEq(), {1 / 3.0f, 1 / 3.0f, 1 / 3.0f}));
  EXPECT_THAT(routing.expert_starts, ElementsAre(0, 0, 1, 2, 3));
}

TEST_F(ReferenceBackendTest, RoutesEvenWhatIsNotANumber) {
  const auto norm = MakeWeight({1, 1}, 1);
  const auto router = MakeWeight({0, 0, 1, 1, 2, 0}, 3);
  Activation h = backend_.MakeActivation(1, 2);
  Routing routing;
  backend_.NormRoute(MakeActivation({NAN, 5}, 2),
                     {.norm = norm.get(), .router = router.get(), .top_k = 2, .norm_eps = 0}, h,
                     routing);
  EXPECT_THAT(routing.experts, ElementsAre(0, 1));
}

TEST_F(ReferenceBackendTest, ExpertsAreSiluOfGateTimesUpThenWeightedDown) {
  const auto gate = MakeWeight({1, 0}, 1);
  const auto up = MakeWeight({0, 1}, 1);
  const auto down = MakeWeight({1, -2}, 2);
  const ExpertWeights weights{
      .gate = {nullptr, gate.get()}, .up = {nullptr, up.get()}, .down = {nullptr, down.get()}};
  Routing routing;
  routing.num_tokens = 2;
  routing.num_experts = 2;
  routing.expert_starts = {0, 0, 1};  // only expert 1, only token 1
  routing.slot_tokens = {1};
  routing.slot_weights = {0.5f};
  Activation g = backend_.MakeActivation(1, 1);
  backend_.ExpertsGateUp(MakeActivation({9, 9, 2, 3}, 2), routing, weights, g);
  const float silu = 2 / (1 + std::exp(-2.0f));
  EXPECT_THAT(Values(g), Pointwise(FloatEq(), {silu * 3}));
  Activation x = MakeActivation({1, 1, 10, 10}, 2);
  backend_.ExpertsDownResidual(g, routing, weights, x);
  EXPECT_THAT(Values(x), Pointwise(FloatEq(), {1.0f, 1.0f, 10 + 1.5f * silu, 10 - 3 * silu}));
}

}  // namespace
}  // namespace nibble
