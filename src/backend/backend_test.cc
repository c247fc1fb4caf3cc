#include "backend/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/kernels/instruction_set.h"
#include "backend/host/host_data.h"
#include "tests/support/testing_layer.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using testing::HostWeight;
using testing::LayerCase;
using testing::LayerResult;
using testing::LayerShape;
using testing::RandomValues;
using testing::RandomWeight;
using testing::RelativeError;
using testing::SequenceStep;
using testing::TestLayer;
using testing::WeightFormat;

// Of one matrix product: float arithmetic against double, and activations in 16-bit fixed point.
constexpr double kFloatError = 1e-6;
constexpr double kFixedPointError = 4e-5;

std::vector<std::string> InstructionSetsHere() {
  std::vector<std::string> names;
  for (const auto& set : cpu::InstructionSets()) {
    if (set.is_supported()) names.push_back(set.name);
  }
#ifdef __SANITIZE_THREAD__
  names.resize(1);  // these cases vary threads, not arithmetic
#endif
  return names;
}

std::unique_ptr<Backend> Cpu(const std::string& instruction_set, int threads,
                             int activation_bits = 16) {
  return MakeBackend(
      "cpu",
      {.threads = threads, .instruction_set = instruction_set, .activation_bits = activation_bits});
}

// Odd and real shapes, every weight format, pages of any size, prompts, continued prompts and
// decoding.
std::vector<LayerCase> Cases() {
  std::vector<LayerCase> cases;
  const auto add = [&](const std::string& name, LayerCase layer_case) {
    layer_case.name = name;
    cases.push_back(std::move(layer_case));
  };
  const LayerShape odd{.hidden = 75,
                       .num_heads = 3,
                       .num_kv_heads = 1,
                       .head_dim = 14,
                       .num_experts = 5,
                       .top_k = 3,
                       .intermediate = 33,
                       .vocab = 130};
  const LayerShape real{.hidden = 256,
                        .num_heads = 4,
                        .num_kv_heads = 2,
                        .head_dim = 64,
                        .num_experts = 8,
                        .top_k = 2,
                        .intermediate = 384,
                        .vocab = 97};
  const LayerShape packed{.hidden = 256,
                          .num_heads = 2,
                          .num_kv_heads = 1,
                          .head_dim = 64,
                          .num_experts = 3,
                          .top_k = 2,
                          .intermediate = 136,
                          .vocab = 33};
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const WeightFormat format{.dtype = dtype};
    add("Odd" + format.ToString(), {.shape = odd,
                                    .format = format,
                                    .block_size = 3,
                                    .sequences = {{0, 7}, {19, 1}, {0, 1}, {5, 13}}});
  }
  add("RealDense", {.shape = real, .sequences = {{0, 100}, {33, 1}, {64, 64}, {0, 65}}});
  add("ManyTokens", {.shape = {.hidden = 40,
                               .num_heads = 2,
                               .num_kv_heads = 1,
                               .head_dim = 8,
                               .num_experts = 3,
                               .top_k = 1,
                               .intermediate = 72,
                               .vocab = 50},
                     .sequences = {{0, 401}, {0, 30}}});
  add("ManyTokensAndTiles", {.shape = {.hidden = 64,
                                       .num_heads = 2,
                                       .num_kv_heads = 1,
                                       .head_dim = 8,
                                       .num_experts = 2,
                                       .top_k = 1,
                                       .intermediate = 650,
                                       .vocab = 50},
                             .format = {.bits = 4, .group_size = 32},
                             .sequences = {{0, 270}, {200, 130}}});
  add("OneHeadEach", {.shape = {.hidden = 64,
                                .num_heads = 3,
                                .num_kv_heads = 3,
                                .head_dim = 136,
                                .num_experts = 2,
                                .top_k = 2,
                                .intermediate = 64,
                                .vocab = 64},
                      .block_size = 1,
                      .sequences = {{70, 3}, {0, 17}}});
  add("Window", {.shape = odd, .sliding_window = 9, .sequences = {{0, 90}, {150, 1}, {130, 40}}});
  add("WindowOfOne", {.shape = odd, .sliding_window = 1, .sequences = {{0, 5}, {63, 3}}});
  add("Bf16Pages",
      {.shape = real, .kv_dtype = DType::kBF16, .sequences = {{0, 70}, {128, 1}, {10, 9}}});
  add("Bf16PagesOdd",
      {.shape = odd, .kv_dtype = DType::kBF16, .block_size = 5, .sequences = {{0, 11}, {31, 2}}});
  add("Int8Pages",
      {.shape = real, .kv_dtype = DType::kI8, .sequences = {{0, 70}, {128, 1}, {10, 9}}});
  add("Int8PagesOdd",
      {.shape = odd, .kv_dtype = DType::kI8, .block_size = 5, .sequences = {{0, 11}, {31, 2}}});
  // Contexts of several spans, read in place and copied, by few rows and many.
  const LayerShape wide{.hidden = 32,
                        .num_heads = 6,
                        .num_kv_heads = 1,
                        .head_dim = 64,
                        .num_experts = 2,
                        .top_k = 1,
                        .intermediate = 16,
                        .vocab = 50};
  const std::vector<SequenceStep> spans = {{1100, 1}, {511, 1}, {511, 2}, {0, 1}, {1020, 9}};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    const std::string name(DTypeName(dtype));
    add("Spans" + name, {.shape = wide, .kv_dtype = dtype, .sequences = spans});
    add("SpansOfLargeBlocks" + name,
        {.shape = wide, .kv_dtype = dtype, .block_size = 48, .sequences = spans});
    add("SpansOdd" + name,
        {.shape = odd, .kv_dtype = dtype, .block_size = 7, .sequences = {{600, 3}, {1024, 1}}});
    add("SpansInAWindow" + name,
        {.shape = wide, .kv_dtype = dtype, .sliding_window = 300, .sequences = spans});
  }

  for (const int bits : {4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const bool act_order : {false, true}) {
        for (const int64_t group_size : {32, 64, 128, 0}) {
          if (act_order && group_size == 0) continue;
          const WeightFormat format{.dtype = group_size == 64 ? DType::kF16 : DType::kBF16,
                                    .bits = bits,
                                    .group_size = group_size,
                                    .symmetric = symmetric,
                                    .act_order = act_order};
          add(format.ToString(),
              {.shape = packed, .format = format, .sequences = {{0, 1}, {0, 2}, {0, 29}, {17, 1}}});
        }
      }
    }
  }
  add("ManyTokensOfWideGroups", {.shape = packed,
                                 .format = {.bits = 4, .group_size = 128},
                                 .sequences = {{0, 207}, {40, 90}, {3, 1}}});
  // 416 columns for one group a row; groups of 32 in 96 columns; rows that do not fill a tile.
  add("WideChannel", {.shape = {.hidden = 416,
                                .num_heads = 1,
                                .num_kv_heads = 1,
                                .head_dim = 32,
                                .num_experts = 2,
                                .top_k = 1,
                                .intermediate = 40,
                                .vocab = 20},
                      .format = {.bits = 4, .group_size = 0},
                      .sequences = {{0, 9}, {3, 1}}});
  add("NarrowGroups", {.shape = {.hidden = 96,
                                 .num_heads = 5,
                                 .num_kv_heads = 5,
                                 .head_dim = 8,
                                 .num_experts = 16,
                                 .top_k = 4,
                                 .intermediate = 160,
                                 .vocab = 20},
                       .format = {.dtype = DType::kF32, .bits = 4, .group_size = 32},
                       .sequences = {{0, 3}, {3, 1}}});
  add("OddGroups", {.shape = {.hidden = 120,
                              .num_heads = 2,
                              .num_kv_heads = 1,
                              .head_dim = 20,
                              .num_experts = 4,
                              .top_k = 2,
                              .intermediate = 200,
                              .vocab = 20},
                    .format = {.bits = 4, .group_size = 40, .symmetric = false},
                    .sequences = {{0, 13}}});
  add("LargeGroups", {.shape = {.hidden = 512,
                                .num_heads = 2,
                                .num_kv_heads = 1,
                                .head_dim = 32,
                                .num_experts = 2,
                                .top_k = 2,
                                .intermediate = 256,
                                .vocab = 20},
                      .format = {.bits = 4, .group_size = 256},
                      .sequences = {{0, 8}}});

  // Layers of other families: dense ones, and every part that some family has.
  const LayerShape dense{.hidden = 72,
                         .num_heads = 6,
                         .num_kv_heads = 2,
                         .head_dim = 20,
                         .num_experts = 0,
                         .top_k = 0,
                         .intermediate = 150,
                         .vocab = 61};
  const std::vector<SequenceStep> mixed = {{0, 9}, {17, 1}, {5, 4}};
  add("DenseLlama", {.shape = dense, .sequences = mixed});
  add("DenseWithBiases", {.shape = dense,
                          .block_size = 5,
                          .sliding_window = 6,
                          .sequences = mixed,
                          .extras = {.qkv_bias = true, .out_bias = true}});
  LayerShape dense_packed = dense;
  dense_packed.hidden = 128;
  dense_packed.intermediate = 192;
  add("DensePacked", {.shape = dense_packed,
                      .format = {.bits = 4, .group_size = 64},
                      .sequences = mixed,
                      .extras = {.qk_norm = true}});
  const LayerShape many{.hidden = 64,
                        .num_heads = 4,
                        .num_kv_heads = 1,
                        .head_dim = 24,
                        .num_experts = 128,
                        .top_k = 8,
                        .intermediate = 37,
                        .vocab = 61};
  add("Qwen3Moe",
      {.shape = many, .sequences = mixed, .extras = {.qk_norm = true, .renormalise = false}});
  add("Qwen3MoePacked", {.shape = many,
                         .format = {.bits = 4, .group_size = 32},
                         .sequences = mixed,
                         .extras = {.qk_norm = true, .renormalise = false}});
  LayerShape sigmoid = many;
  sigmoid.num_experts = 11;
  sigmoid.top_k = 3;
  add("SigmoidRouter", {.shape = sigmoid,
                        .sequences = mixed,
                        .extras = {.qkv_bias = true,
                                   .qk_norm = true,
                                   .rotary_dim = 10,
                                   .score = RouterScore::kSigmoid,
                                   .router_scale = 2.5f,
                                   .correction = true,
                                   .shared_intermediate = 90}});
  add("SharedExpertWithGate",
      {.shape = sigmoid,
       .sequences = mixed,
       .extras = {.renormalise = false, .shared_intermediate = 200, .shared_gate = true}});
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    add("Sinks" + std::string(DTypeName(dtype)),
        {.shape = sigmoid,
         .kv_dtype = dtype,
         .sliding_window = 600,
         .sequences = {{0, 3}, {1100, 1}, {511, 2}},
         .extras = {.out_bias = true, .sinks = true, .rotary_factor = 1.3f, .scale = 0.11f}});
  }
  return cases;
}

TEST(WeightBytes, AreThoseOfWhatIsPrepared) {
  for (const char* name : {"reference", "cpu"}) {
    const auto backend = MakeBackend(name);
    for (const WeightFormat& format :
         {WeightFormat{.dtype = DType::kBF16}, WeightFormat{.dtype = DType::kF32},
          WeightFormat{.bits = 4, .group_size = 32}}) {
      const HostWeight a = RandomWeight(format, 70, 96, 1);
      const HostWeight b = RandomWeight(format, 130, 96, 2);
      const std::vector<WeightView> parts = {a.view(), b.view()};
      EXPECT_EQ(backend->WeightBytes(parts, Role::kGateUp),
                backend->Prepare(parts, Role::kGateUp)->size_bytes());
      EXPECT_EQ(backend->WeightBytes(a.view(), Role::kProjection),
                backend->Prepare(a.view(), Role::kProjection)->size_bytes());
    }
  }
}

class LayerTest : public ::testing::TestWithParam<LayerCase> {};

INSTANTIATE_TEST_SUITE_P(Cases, LayerTest, ::testing::ValuesIn(Cases()),
                         [](const auto& test) { return test.param.name; });

TEST_P(LayerTest, MatchesReference) {
  const TestLayer layer(GetParam());
  const auto reference = MakeBackend("reference");
  const LayerResult expected = layer.Run(*reference);
  const bool packed = GetParam().format.bits > 0;
  const double product = packed ? kFixedPointError : kFloatError;
  // Pages that differ by one rounding to BF16 differ by more than the arithmetic does.
  const double pages = GetParam().kv_dtype == DType::kBF16 ? 2e-4
                       : GetParam().kv_dtype == DType::kI8 ? 2e-3
                                                           : 0;
  for (const std::string& name : InstructionSetsHere()) {
    SCOPED_TRACE(name);
    const LayerResult actual = layer.Run(*Cpu(name, 2));
    // Errors accumulate from product to product.
    const auto expect_close = [&](const char* what, const std::vector<float>& a,
                                  const std::vector<float>& b, double tolerance) {
      EXPECT_LE(RelativeError(a, b), tolerance) << what;
    };
    expect_close("normed", actual.normed, expected.normed, 3e-7);
    expect_close("queries", actual.queries, expected.queries, product);
    expect_close("attended", actual.attended, expected.attended, pages + 2 * product);
    expect_close("after attention", actual.after_attention, expected.after_attention,
                 pages + 3 * product);
    expect_close("router logits", actual.router_logits, expected.router_logits,
                 pages + 3 * product);
    ASSERT_EQ(actual.experts, expected.experts);
    expect_close("expert weights", actual.expert_weights, expected.expert_weights,
                 pages + 3 * product);
    expect_close("middle", actual.middle, expected.middle, 2 * pages + 5 * product);
    expect_close("output", actual.output, expected.output, 2 * pages + 6 * product);
    expect_close("logits", actual.logits, expected.logits, 2 * pages + 6 * product);
  }
}

// Cases that plain loops get through in a moment, without pages that round.
std::vector<LayerCase> SmallExactCases() {
  std::vector<LayerCase> cases = Cases();
  std::erase_if(cases, [](const LayerCase& layer_case) {
    int64_t work = 0;
    for (const SequenceStep& s : layer_case.sequences) work += (s.cached + s.fresh) * s.fresh;
    return work > 2000 || layer_case.kv_dtype != DType::kF32;
  });
  return cases;
}

class NaiveLayerTest : public ::testing::TestWithParam<LayerCase> {};
INSTANTIATE_TEST_SUITE_P(Cases, NaiveLayerTest, ::testing::ValuesIn(SmallExactCases()),
                         [](const auto& test) { return test.param.name; });

// Both backends agree with loops in double that share no code with either.
TEST_P(NaiveLayerTest, IsWhatBothBackendsCompute) {
  const TestLayer layer(GetParam());
  const std::vector<float> expected = layer.NaiveOutput();
  EXPECT_LE(RelativeError(layer.Run(*MakeBackend("reference")).output, expected), 1e-6);
  const double product = GetParam().format.bits > 0 ? kFixedPointError : kFloatError;
  EXPECT_LE(RelativeError(layer.Run(*Cpu("", 2)).output, expected), 6 * product);
}

// Bits, not values: a zero with another sign is a difference.
::testing::AssertionResult SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0) {
      return ::testing::AssertionFailure()
             << "element " << i << " of " << a.size() << ": " << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

void ExpectSameBits(const LayerResult& a, const LayerResult& b) {
  EXPECT_TRUE(SameBits(a.normed, b.normed)) << "normed";
  EXPECT_TRUE(SameBits(a.queries, b.queries)) << "queries";
  EXPECT_TRUE(SameBits(a.attended, b.attended)) << "attended";
  EXPECT_TRUE(SameBits(a.after_attention, b.after_attention)) << "after attention";
  EXPECT_TRUE(SameBits(a.router_logits, b.router_logits)) << "router logits";
  EXPECT_EQ(a.experts, b.experts);
  EXPECT_TRUE(SameBits(a.expert_weights, b.expert_weights)) << "expert weights";
  EXPECT_TRUE(SameBits(a.middle, b.middle)) << "middle";
  EXPECT_TRUE(SameBits(a.output, b.output)) << "output";
  EXPECT_TRUE(SameBits(a.logits, b.logits)) << "logits";
}

TEST_P(LayerTest, SameBitsOnEveryInstructionSetAndThreadCount) {
  const TestLayer layer(GetParam());
  for (const int activation_bits : {16, 8}) {
    const LayerResult expected = layer.Run(*Cpu("portable", 1, activation_bits));
    for (const std::string& name : InstructionSetsHere()) {
      for (const int threads : {1, 2, 3}) {
        SCOPED_TRACE(name + ", threads " + std::to_string(threads) + ", activation bits " +
                     std::to_string(activation_bits));
        ExpectSameBits(layer.Run(*Cpu(name, threads, activation_bits)), expected);
      }
    }
    if (GetParam().format.bits == 0) break;  // only packed weights know the difference
  }
}

// A sequence run alone gives the same rows as in a batch; so does a prompt in two chunks, since the
// cached part of a sequence was computed in another step than the rest.
TEST_P(LayerTest, SameBitsAloneAndInABatch) {
  const TestLayer layer(GetParam());
  for (const std::string& name : InstructionSetsHere()) {
    SCOPED_TRACE(name);
    const auto backend = Cpu(name, 2);
    const LayerResult together = layer.Run(*backend);
    size_t first = 0;
    for (size_t s = 0; s < GetParam().sequences.size(); ++s) {
      const auto count = static_cast<size_t>(GetParam().sequences[s].fresh);
      const LayerResult alone = layer.Run(*backend, static_cast<int>(s));
      const auto rows = [&](const std::vector<float>& all) {
        const size_t width =
            all.size() / (together.normed.size() / static_cast<size_t>(GetParam().shape.hidden));
        return std::vector<float>(all.begin() + static_cast<int64_t>(first * width),
                                  all.begin() + static_cast<int64_t>((first + count) * width));
      };
      EXPECT_TRUE(SameBits(alone.queries, rows(together.queries))) << s;
      EXPECT_TRUE(SameBits(alone.attended, rows(together.attended))) << s;
      EXPECT_TRUE(SameBits(alone.router_logits, rows(together.router_logits))) << s;
      EXPECT_TRUE(SameBits(alone.output, rows(together.output))) << s;
      EXPECT_TRUE(SameBits(alone.logits, rows(together.logits))) << s;
      first += count;
    }
  }
}

class InstructionSetTest : public ::testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Sets, InstructionSetTest, ::testing::ValuesIn(InstructionSetsHere()),
                         [](const auto& test) { return test.param; });

TEST_P(InstructionSetTest, PromptInPiecesGivesTheSameBits) {
  // The last token of a sequence: computed in one step with all the others, after them, or alone.
  LayerCase layer_case{.shape = {.hidden = 128, .head_dim = 32},
                       .format = {.bits = 4, .group_size = 64}};
  std::vector<float> expected;
  for (const int64_t cached : {0, 1, 63, 64, 99, 130}) {
    layer_case.sequences = {{cached, 131 - cached}};
    const std::vector<float> logits = TestLayer(layer_case).Run(*Cpu(GetParam(), 2)).logits;
    const std::vector<float> last(logits.end() - layer_case.shape.vocab, logits.end());
    if (expected.empty()) expected = last;
    EXPECT_TRUE(SameBits(last, expected)) << cached;
  }
}

// The last token of a context of three spans, for any batch mates and any division of the context
// among threads.
TEST_P(InstructionSetTest, AttentionInPiecesGivesTheSameBits) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const int64_t window : {0, 600}) {
      LayerCase layer_case{.shape = {.hidden = 32,
                                     .num_heads = 3,
                                     .num_kv_heads = 1,
                                     .head_dim = 64,
                                     .num_experts = 2,
                                     .intermediate = 16},
                           .kv_dtype = dtype,
                           .sliding_window = window};
      std::vector<float> expected;
      for (const int64_t cached : {920, 1000, 1023, 1024, 1037, 1039}) {
        for (const int threads : {1, 2}) {
          layer_case.sequences = {{cached, 1040 - cached}};
          const LayerResult result = TestLayer(layer_case).Run(*Cpu(GetParam(), threads));
          const std::vector<float> last(result.attended.end() - 3 * 64, result.attended.end());
          if (expected.empty()) expected = last;
          EXPECT_TRUE(SameBits(last, expected)) << DTypeName(dtype) << ", window " << window
                                                << ", cached " << cached << ", threads " << threads;
        }
      }
    }
  }
}

TEST_P(InstructionSetTest, TiesGoToTheLowerExpert) {
  const auto backend = Cpu(GetParam(), 1);
  const int64_t hidden = 32;
  std::vector<float> rows;  // experts 0 and 3 alike, 1 and 2 alike and better
  for (const float value : {0.5f, 1.0f, 1.0f, 0.5f}) rows.insert(rows.end(), 32, value);
  const Tensor router = FromFloat(rows, DType::kF32, Shape{4, hidden});
  const Tensor norm = FromFloat(std::vector<float>(32, 1.0f), DType::kF32, Shape{hidden});
  const auto router_weight = backend->Prepare(router.view(), Role::kRouter);
  const auto norm_weight = backend->Prepare(norm.view(), Role::kVector);
  Activation x = backend->MakeActivation(1, hidden);
  Activation h = backend->MakeActivation(1, hidden);
  x.rows = 1;
  backend->Upload(std::vector<float>(32, 2.0f), x);
  const RouterShape shape{.num_experts = 4, .top_k = 3};
  const auto on_device = backend->MakeRouting(shape, 1);
  backend->NormRoute(x, shape, {.norm = norm_weight.get(), .router = router_weight.get()}, h,
                     *on_device);
  RoutingTable routing;
  backend->Download(*on_device, routing);
  EXPECT_THAT(routing.experts, ElementsAre(1, 2, 0));
  EXPECT_FLOAT_EQ(routing.weights[0], routing.weights[1]);
  EXPECT_FLOAT_EQ(routing.weights[0] + routing.weights[1] + routing.weights[2], 1.0f);
}

// Non-finite values must propagate through their own row, also through fixed point, and to no other
// row.
TEST_P(InstructionSetTest, NonFiniteRowsSpoilNoOthers) {
  const auto backend = Cpu(GetParam(), 2);
  for (const int bits : {0, 4, 8}) {
    const HostWeight weight = RandomWeight({.bits = bits, .group_size = 32}, 70, 96, 1);
    const auto o = backend->Prepare(weight.view(), Role::kProjection);
    std::vector<float> input = RandomValues(4 * 96, 2);
    input[96 + 40] = std::numeric_limits<float>::quiet_NaN();
    input[2 * 96 + 95] = std::numeric_limits<float>::infinity();
    Activation a = backend->MakeActivation(4, 96);
    Activation x = backend->MakeActivation(4, 70);
    a.rows = x.rows = 4;
    backend->Upload(input, a);
    backend->ProjectResidual(a, {.out = o.get()}, x);
    for (int64_t i = 0; i < 70; ++i) {
      EXPECT_TRUE(std::isfinite(HostRow(x, 0)[i]) && std::isfinite(HostRow(x, 3)[i]))
          << bits << " " << i;
      EXPECT_TRUE(!std::isfinite(HostRow(x, 1)[i]) && !std::isfinite(HostRow(x, 2)[i]))
          << bits << " " << i;
    }
  }
}

// Activations of any magnitude; tiny ones become zero.
TEST_P(InstructionSetTest, FixedPointFollowsTheMagnitudeOfEachRow) {
  const auto backend = Cpu(GetParam(), 1);
  const auto reference = MakeBackend("reference");
  const HostWeight weight = RandomWeight({.bits = 4}, 64, 256, 1);
  const auto fast = backend->Prepare(weight.view(), Role::kProjection);
  const auto slow = reference->Prepare(weight.view(), Role::kProjection);
  for (const float magnitude : {1e-25f, 1e-6f, 1.0f, 1e6f, 1e30f}) {
    std::vector<float> input = RandomValues(256, 2);
    for (float& value : input) value *= magnitude;
    std::vector<float> results[2];
    for (int i = 0; i < 2; ++i) {
      Backend& b = i == 0 ? *backend : *reference;
      Activation a = b.MakeActivation(1, 256);
      Activation x = b.MakeActivation(1, 64);
      a.rows = x.rows = 1;
      b.Upload(input, a);
      b.ProjectResidual(a, {.out = i == 0 ? fast.get() : slow.get()}, x);
      results[i].resize(64);
      b.Download(x, results[i]);
    }
    EXPECT_LE(RelativeError(results[0], results[1]), kFixedPointError) << magnitude;
  }
}

// Calibration runs chosen experts over chosen tokens: a token may have one slot, many or none.
TEST_P(InstructionSetTest, RunsAnyRoutingTheCallerBuilds) {
  const auto backend = Cpu(GetParam(), 2);
  const int64_t hidden = 64, intermediate = 96, num_tokens = 5;
  const HostWeight gate = RandomWeight({}, intermediate, hidden, 1);
  const HostWeight up = RandomWeight({}, intermediate, hidden, 2);
  const HostWeight down = RandomWeight({}, hidden, intermediate, 3);
  const auto run = [&](Backend& b) {
    const WeightView gate_up[] = {gate.view(), up.view(), up.view(), gate.view()};
    const WeightView downs[] = {down.view(), down.view()};
    const auto gate_up_weight = b.Prepare(gate_up, Role::kGateUp);
    const auto down_weight = b.Prepare(downs, Role::kDown);
    const ExpertWeights experts{gate_up_weight.get(), down_weight.get(), /*first_expert=*/3};
    RoutingTable table;
    table.num_tokens = num_tokens;
    table.num_experts = 6;
    table.expert_starts = {0, 0, 0, 0, 3, 5, 5};  // of experts 3 and 4 alone
    table.slot_tokens = {0, 2, 4, 2, 4};
    table.slot_weights = {1.0f, 0.25f, 0.5f, 0.75f, 2.0f};
    const auto routing = b.MakeRouting({.num_experts = 6, .top_k = 2}, num_tokens);
    b.Upload(table, *routing);
    Activation h = b.MakeActivation(num_tokens, hidden);
    Activation x = b.MakeActivation(num_tokens, hidden);
    Activation g = b.MakeActivation(8, intermediate);
    h.rows = x.rows = num_tokens;
    b.Upload(RandomValues(num_tokens * hidden, 4), h);
    b.Upload(RandomValues(num_tokens * hidden, 5), x);
    b.GateUp(h, *routing, experts, g);
    EXPECT_EQ(g.rows, 5);
    b.DownResidual(g, *routing, experts, x);
    std::vector<float> out(num_tokens * hidden);
    b.Download(x, out);
    return out;
  };
  EXPECT_LE(RelativeError(run(*backend), run(*MakeBackend("reference"))), kFloatError);
}

}  // namespace
}  // namespace nibble
