// The oracle against numbers computed by hand; it is compared with a whole naive model and with
// recorded outputs in src/model.
#include "backend/reference/reference_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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
    std::vector<float> values(x.rows * x.cols);
    backend_.Download(x, values);
    return values;
  }

  // NormRoute, and what it routed.
  RoutingTable Route(const Activation& x, const RouterShape& shape, const RouterWeights& weights) {
    Activation h = backend_.MakeActivation(x.rows, x.cols);
    const auto routing = backend_.MakeRouting(shape, x.rows);
    backend_.NormRoute(x, shape, weights, h, *routing);
    RoutingTable table;
    backend_.Download(*routing, table);
    return table;
  }
  std::unique_ptr<Weight> MakeVector(const std::vector<float>& values) {
    const auto size = static_cast<int64_t>(values.size());
    return backend_.Prepare(Tensor::FromVector(values, Shape{size}).view(), Role::kVector);
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
  backend_.ProjectResidual(MakeActivation({1, 10, 100, 1000}, 4), {.out = weight.get()}, x);
  EXPECT_THAT(Values(x), ElementsAre(-4 - 5 + 0 + 14000, 1 + 20 + 900 + 12000));
}

TEST_F(ReferenceBackendTest, RotatesPairsHalfAHeadApart) {
  // One head of 4; identity projections, so q is the normed input rotated.
  const auto norm = MakeWeight({1, 1, 1, 1}, 1);
  const Tensor identity =
      Tensor::FromVector<float>({1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, Shape{4, 4});
  const std::vector<WeightView> qkv_parts(3, identity.view());
  const auto qkv = backend_.Prepare(qkv_parts, Role::kQkv);
  const AttentionWeights weights{.norm = norm.get(), .qkv = qkv.get()};
  const AttentionShape shape{.num_heads = 1,
                             .num_kv_heads = 1,
                             .head_dim = 4,
                             .norm_eps = 0,
                             .rotary = {.inverse_frequencies = {1.0f, 0.5f}}};
  const auto kv =
      backend_.MakeKvPages({.num_layers = 1, .num_kv_heads = 1, .head_dim = 4, .block_size = 8}, 1);
  const Batch batch = OneSequence(3, 1);
  Activation normed = backend_.MakeActivation(1, 4);
  Activation q = backend_.MakeActivation(1, 4);
  {
    const Step step(backend_, batch, *kv);
    backend_.NormQkvRopeStore(MakeActivation({2, 2, 2, -2}, 4), shape, weights, 0, normed, q);
  }
  EXPECT_THAT(Values(normed), ElementsAre(1, 1, 1, -1));
  const float c = std::cos(3.0f);
  const float s = std::sin(3.0f);
  const float c2 = std::cos(1.5f);
  const float s2 = std::sin(1.5f);
  EXPECT_THAT(Values(q), Pointwise(FloatNear(1e-6f), {c - s, c2 + s2, c + s, s2 - c2}));
  // The key is rotated, the value is not; both lie in slot 3 of 8.
  const float* const pages = static_cast<const float*>(static_cast<HostKvPages&>(*kv).data());
  EXPECT_EQ((std::vector{pages[3], pages[8 + 3], pages[16 + 3], pages[24 + 3]}), Values(q));
  EXPECT_EQ(std::vector(pages + 32 + 12, pages + 32 + 16), Values(normed));
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
  const auto kv =
      backend_.MakeKvPages({.num_layers = 1, .num_kv_heads = 1, .head_dim = 1, .block_size = 4}, 1);
  std::ranges::copy(pages, static_cast<float*>(static_cast<HostKvPages&>(*kv).data()));
  AttentionShape shape{.num_heads = 2, .num_kv_heads = 1, .head_dim = 1};
  const Batch batch = OneSequence(1, 2);
  const Activation q = MakeActivation({1, 0, 1, 0}, 2);
  Activation out = backend_.MakeActivation(2, 2);
  const Step step(backend_, batch, *kv);
  backend_.Attention(q, shape, {}, 0, out);
  EXPECT_THAT(Values(out), Pointwise(FloatNear(1e-4f),
                                     {(100 + 20) / 3.0f, 55.0f, (100 + 20 + 4) / 7.0f, 37.0f}));
  shape.sliding_window = 2;
  backend_.Attention(q, shape, {}, 0, out);
  EXPECT_THAT(Values(out),
              Pointwise(FloatNear(1e-4f), {(100 + 20) / 3.0f, 55.0f, (20 + 4) / 6.0f, 5.5f}));

  // A sink takes its share of the softmax and gives nothing; another scale bends the scores.
  const auto sinks = MakeVector({std::log(2.0f), 0});
  backend_.Attention(q, shape, {.sinks = sinks.get()}, 0, out);
  EXPECT_THAT(Values(out), Pointwise(FloatNear(1e-4f),
                                     {(100 + 20) / 5.0f, 110 / 3.0f, (20 + 4) / 8.0f, 11 / 3.0f}));
  shape.scale = 2;
  backend_.Attention(q, shape, {}, 0, out);
  EXPECT_THAT(Values(out),
              Pointwise(FloatNear(1e-4f), {(100 + 40) / 5.0f, 55.0f, (40 + 16) / 20.0f, 5.5f}));
}

TEST_F(ReferenceBackendTest, RoutesToTheLargestLogitsLowerIndexFirst) {
  const auto norm = MakeWeight({1, 1}, 1);
  const auto router = MakeWeight({0, 0, 1, 1, 2, 0, 0, 2}, 4);  // logits of (1, 1): 0, 2, 2, 2
  const RoutingTable routing =
      Route(MakeActivation({5, 5}, 2), {.num_experts = 4, .top_k = 3, .norm_eps = 0},
            {.norm = norm.get(), .router = router.get()});
  EXPECT_THAT(routing.logits, ElementsAre(0, 2, 2, 2));
  EXPECT_THAT(routing.experts, ElementsAre(1, 2, 3));
  EXPECT_THAT(routing.weights, Pointwise(FloatEq(), {1 / 3.0f, 1 / 3.0f, 1 / 3.0f}));
  EXPECT_THAT(routing.expert_starts, ElementsAre(0, 0, 1, 2, 3));
}

TEST_F(ReferenceBackendTest, RoutesEvenWhatIsNotANumber) {
  const auto norm = MakeWeight({1, 1}, 1);
  const auto router = MakeWeight({0, 0, 1, 1, 2, 0}, 3);
  const RoutingTable routing =
      Route(MakeActivation({NAN, 5}, 2), {.num_experts = 3, .top_k = 2, .norm_eps = 0},
            {.norm = norm.get(), .router = router.get()});
  EXPECT_THAT(routing.experts, ElementsAre(0, 1));
}

TEST_F(ReferenceBackendTest, ExpertsAreSiluOfGateTimesUpThenWeightedDown) {
  const Tensor gate = Tensor::FromVector<float>({1, 0}, Shape{1, 2});
  const Tensor up = Tensor::FromVector<float>({0, 1}, Shape{1, 2});
  const WeightView parts[] = {gate.view(), up.view()};
  const auto gate_up = backend_.Prepare(parts, Role::kGateUp);
  const auto down = MakeWeight({1, -2}, 2);
  const ExpertWeights weights{gate_up.get(), down.get(), /*first_expert=*/1};
  RoutingTable table;
  table.num_tokens = 2;
  table.num_experts = 2;
  table.expert_starts = {0, 0, 1};  // only expert 1, only token 1
  table.slot_tokens = {1};
  table.slot_weights = {0.5f};
  const auto routing = backend_.MakeRouting({.num_experts = 2, .top_k = 1}, 2);
  backend_.Upload(table, *routing);
  Activation g = backend_.MakeActivation(1, 1);
  backend_.GateUp(MakeActivation({9, 9, 2, 3}, 2), *routing, weights, g);
  const float silu = 2 / (1 + std::exp(-2.0f));
  EXPECT_THAT(Values(g), Pointwise(FloatEq(), {silu * 3}));
  Activation x = MakeActivation({1, 1, 10, 10}, 2);
  backend_.DownResidual(g, *routing, weights, x);
  EXPECT_THAT(Values(x), Pointwise(FloatEq(), {1.0f, 1.0f, 10 + 1.5f * silu, 10 - 3 * silu}));
}

}  // namespace
}  // namespace nibble
