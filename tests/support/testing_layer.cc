#include "tests/support/testing_layer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tensor/packed.h"

namespace nibble::testing {
namespace {

constexpr int64_t kLayer = 1;  // of the pages

// SplitMix64: every index has its own number, in any order.
uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

HostWeight Dense(const std::vector<float>& values, DType dtype, Shape shape) {
  HostWeight weight;
  weight.dense = std::make_unique<Tensor>(FromFloat(values, dtype, shape));
  return weight;
}

HostWeight RandomNorm(int64_t cols, uint64_t seed) {
  std::vector<float> values = RandomValues(cols, seed);
  for (float& value : values) value = 1.0f + 0.25f * value;
  return Dense(values, DType::kBF16, Shape{cols});
}

Batch MakeBatch(const LayerCase& layer_case, bool fill_cache, int only) {
  Batch batch;
  batch.starts = {0};
  int64_t longest = 1;
  for (const auto& s : layer_case.sequences) longest = std::max(longest, s.cached + s.fresh);
  batch.max_blocks =
      static_cast<int32_t>((longest + layer_case.block_size - 1) / layer_case.block_size);
  for (size_t s = 0; s < layer_case.sequences.size(); ++s) {
    if (only >= 0 && static_cast<int>(s) != only) continue;
    const auto [cached, fresh] = layer_case.sequences[s];
    const int64_t first = fill_cache ? 0 : cached;
    const int64_t last = fill_cache ? cached : cached + fresh;
    for (int64_t position = first; position < last; ++position) {
      batch.positions.push_back(static_cast<int32_t>(position));
      batch.tokens.push_back(
          static_cast<int32_t>(Mix(s * 1000003 + static_cast<uint64_t>(position)) %
                               static_cast<uint64_t>(layer_case.shape.vocab)));
    }
    batch.starts.push_back(static_cast<int32_t>(batch.tokens.size()));
    batch.context_lengths.push_back(static_cast<int32_t>(last));
    // Blocks of different sequences interleave and run backwards.
    const auto num_sequences = static_cast<int64_t>(layer_case.sequences.size());
    for (int64_t b = 0; b < batch.max_blocks; ++b) {
      batch.block_table.push_back(static_cast<int32_t>((batch.max_blocks - 1 - b) * num_sequences +
                                                       static_cast<int64_t>(s)));
    }
  }
  batch.logit_rows.resize(batch.tokens.size());
  std::iota(batch.logit_rows.begin(), batch.logit_rows.end(), 0);
  return batch;
}

std::vector<float> Copy(Backend& backend, const Activation& x) {
  std::vector<float> host(static_cast<size_t>(x.rows * x.cols));
  backend.Download(x, host);
  return host;
}

}  // namespace

std::string WeightFormat::ToString() const {
  std::string text = std::string(DTypeName(dtype));
  if (bits == 0) return "Dense" + text;
  return "Int" + std::to_string(bits) + text + "Group" +
         (group_size == 0 ? std::string("Channel") : std::to_string(group_size)) +
         (symmetric ? "" : "Asymmetric") + (act_order ? "ActOrder" : "");
}

WeightView HostWeight::view() const {
  if (packed) return packed->view();
  return dense->view();
}

std::vector<float> RandomValues(int64_t count, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto bits = static_cast<int32_t>(Mix(Mix(seed) + i) >> 40);  // 24 of them
    values[i] = static_cast<float>(bits) * 0x1p-23f - 1.0f;
  }
  return values;
}

HostWeight RandomWeight(const WeightFormat& format, int64_t rows, int64_t cols, uint64_t seed) {
  const float spread = 1.7f / std::sqrt(static_cast<float>(cols));  // keeps the outputs near 1
  std::vector<float> values = RandomValues(rows * cols, seed);
  if (format.bits == 0) {
    for (float& value : values) value *= spread;
    return Dense(values, format.dtype, Shape{rows, cols});
  }
  const int64_t group_size = format.group_size == 0 ? cols : format.group_size;
  const int64_t groups = cols / group_size;
  const auto half = static_cast<float>(1 << (format.bits - 1));
  HostWeight weight;
  weight.packed = std::make_unique<PackedTensor>();
  PackedTensor& packed = *weight.packed;
  packed.bits = format.bits;
  packed.rows = rows;
  packed.cols = cols;
  packed.group_size = group_size;
  std::vector<int8_t> codes(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    codes[i] = static_cast<int8_t>(std::floor(values[i] * half));
  }
  packed.packed = PackCodes(codes, rows, cols, format.bits);
  std::vector<float> scales = RandomValues(rows * groups, seed + 1);
  for (float& scale : scales) scale = spread / half * (1.0f + 0.5f * scale);
  packed.scales = FromFloat(scales, format.dtype, Shape{rows, groups});
  if (!format.symmetric) {
    const std::vector<float> random = RandomValues(rows * groups, seed + 2);
    std::vector<int8_t> zeros(random.size());
    for (size_t i = 0; i < zeros.size(); ++i) {
      zeros[i] = static_cast<int8_t>(std::floor(random[i] * half));
    }
    packed.zero_point = PackZeroPoints(zeros, rows, groups, format.bits);
  }
  if (format.act_order) {
    std::vector<int32_t> g_idx(static_cast<size_t>(cols));
    for (size_t k = 0; k < g_idx.size(); ++k) {
      g_idx[k] = static_cast<int32_t>(static_cast<int64_t>(k) / group_size);
    }
    for (size_t k = g_idx.size(); k > 1; --k) std::swap(g_idx[k - 1], g_idx[Mix(seed + k) % k]);
    packed.g_idx = Tensor::FromVector(g_idx, Shape{cols});
  }
  return weight;
}

TestLayer::TestLayer(const LayerCase& layer_case) : case_(layer_case) {
  const LayerShape& s = case_.shape;
  const WeightFormat& format = case_.format;
  const WeightFormat dense{.dtype = DType::kBF16};
  const int64_t q_rows = s.num_heads * s.head_dim;
  const int64_t kv_rows = s.num_kv_heads * s.head_dim;
  embedding_ = Dense(RandomValues(s.vocab * s.hidden, 1), format.dtype, Shape{s.vocab, s.hidden});
  attention_norm_ = RandomNorm(s.hidden, 2);
  q_ = RandomWeight(format, q_rows, s.hidden, 3);
  k_ = RandomWeight(format, kv_rows, s.hidden, 4);
  v_ = RandomWeight(format, kv_rows, s.hidden, 5);
  // Inputs of o and w2 have their own widths, which the group size may not divide.
  const auto fitting = [&](int64_t cols) {
    WeightFormat result = format;
    if (format.group_size > 0 && cols % format.group_size != 0) result.group_size = 0;
    return result;
  };
  o_ = RandomWeight(fitting(q_rows), s.hidden, q_rows, 6);
  expert_norm_ = RandomNorm(s.hidden, 7);
  router_ = RandomWeight(dense, s.num_experts, s.hidden, 8);
  for (int64_t e = 0; e < s.num_experts; ++e) {
    const auto seed = static_cast<uint64_t>(100 + 10 * e);
    gate_.push_back(RandomWeight(format, s.intermediate, s.hidden, seed));
    up_.push_back(RandomWeight(format, s.intermediate, s.hidden, seed + 3));
    down_.push_back(RandomWeight(fitting(s.intermediate), s.hidden, s.intermediate, seed + 6));
  }
  head_norm_ = RandomNorm(s.hidden, 9);
  head_ = RandomWeight(dense, s.vocab, s.hidden, 10);
  attention_shape_ = {.num_heads = s.num_heads,
                      .num_kv_heads = s.num_kv_heads,
                      .head_dim = s.head_dim,
                      .sliding_window = case_.sliding_window};
  for (int64_t i = 0; i < s.head_dim / 2; ++i) {
    attention_shape_.rotary.inverse_frequencies.push_back(
        std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(s.head_dim)));
  }
  router_shape_ = {.num_experts = s.num_experts, .top_k = s.top_k};
}

LayerOnBackend::LayerOnBackend(const TestLayer& layer, Backend& backend, int only)
    : backend_(backend),
      case_(layer.case_),
      batch_(MakeBatch(case_, false, only)),
      attention_shape_(layer.attention_shape_),
      router_shape_(layer.router_shape_) {
  const LayerShape& s = case_.shape;
  embedding_ = Prepare(layer.embedding_, Role::kEmbedding);
  attention_.norm = Prepare(layer.attention_norm_, Role::kVector);
  const HostWeight* const qkv[] = {&layer.q_, &layer.k_, &layer.v_};
  attention_.qkv = Prepare(qkv, Role::kQkv);
  attention_.out = Prepare(layer.o_, Role::kProjection);
  router_ = {.norm = Prepare(layer.expert_norm_, Role::kVector),
             .router = Prepare(layer.router_, Role::kRouter)};
  std::vector<const HostWeight*> gate_up, down;
  for (size_t e = 0; e < layer.gate_.size(); ++e) {
    gate_up.push_back(&layer.gate_[e]);
    gate_up.push_back(&layer.up_[e]);
    down.push_back(&layer.down_[e]);
  }
  experts_ = {.gate_up = Prepare(gate_up, Role::kGateUp), .down = Prepare(down, Role::kDown)};
  head_ = {.norm = Prepare(layer.head_norm_, Role::kVector),
           .head = Prepare(layer.head_, Role::kHead)};

  int64_t num_tokens = 1, longest = 1;
  for (const auto& sequence : case_.sequences) {
    num_tokens += sequence.cached + sequence.fresh;
    longest = std::max(longest, sequence.cached + sequence.fresh);
  }
  const KvShape kv{.num_layers = 2,  // of which the second is used
                   .num_kv_heads = s.num_kv_heads,
                   .head_dim = s.head_dim,
                   .block_size = case_.block_size,
                   .dtype = case_.kv_dtype};
  kv_ = backend.MakeKvPages(
      kv, BlocksFor(longest, case_.block_size) * static_cast<int64_t>(case_.sequences.size()));
  x_ = backend.MakeActivation(num_tokens, s.hidden);
  normed_ = backend.MakeActivation(num_tokens, s.hidden);
  q_ = backend.MakeActivation(num_tokens, s.num_heads * s.head_dim);
  attended_ = backend.MakeActivation(num_tokens, q_.cols);
  h_ = backend.MakeActivation(num_tokens, s.hidden);
  g_ = backend.MakeActivation(num_tokens * s.top_k, s.intermediate);
  routing_ = backend.MakeRouting(router_shape_, num_tokens);
  logits_ = backend.MakeLogitRows(num_tokens, s.vocab);

  const Batch cache = MakeBatch(case_, true, only);
  if (cache.num_tokens() > 0) {
    const Step step(backend, cache, *kv_);
    backend.Embed(*embedding_, x_);
    backend.NormQkvRopeStore(x_, attention_shape_, attention_, kLayer, normed_, q_);
  }
}

const Weight* LayerOnBackend::Prepare(std::span<const HostWeight* const> parts, Role role) {
  std::vector<WeightView> views;
  for (const HostWeight* part : parts) views.push_back(part->view());
  return weights_.emplace_back(backend_.Prepare(views, role)).get();
}

const Weight* LayerOnBackend::Prepare(const HostWeight& weight, Role role) {
  const HostWeight* const part = &weight;
  return Prepare({&part, 1}, role);
}

void LayerOnBackend::RunStep(LayerResult* result) {
  const auto keep = [&](std::vector<float> LayerResult::* member, const Activation& x) {
    if (result != nullptr) result->*member = Copy(backend_, x);
  };
  const Step step(backend_, batch_, *kv_);
  backend_.Embed(*embedding_, x_);
  backend_.NormQkvRopeStore(x_, attention_shape_, attention_, kLayer, normed_, q_);
  keep(&LayerResult::normed, normed_);
  keep(&LayerResult::queries, q_);
  backend_.Attention(q_, attention_shape_, attention_, kLayer, attended_);
  keep(&LayerResult::attended, attended_);
  backend_.ProjectResidual(attended_, attention_, x_);
  keep(&LayerResult::after_attention, x_);
  backend_.NormRoute(x_, router_shape_, router_, h_, *routing_);
  keep(&LayerResult::expert_input, h_);
  backend_.GateUp(h_, *routing_, experts_, g_);
  keep(&LayerResult::middle, g_);
  backend_.DownResidual(g_, *routing_, experts_, x_);
  keep(&LayerResult::output, x_);
  backend_.Head(x_, head_, batch_.logit_rows, *logits_);
  if (result == nullptr) return;
  RoutingTable routing;
  backend_.Download(*routing_, routing);
  result->router_logits = routing.logits;
  result->expert_weights = routing.weights;
  result->experts = routing.experts;
  result->logits.resize(batch_.logit_rows.size() * static_cast<size_t>(case_.shape.vocab));
  logits_->Read(0, result->logits);
}

LayerResult TestLayer::Run(Backend& backend, int only) const {
  LayerResult result;
  LayerOnBackend(*this, backend, only).RunStep(&result);
  return result;
}

double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]);
    const auto y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  const double error = std::sqrt(difference) / std::sqrt(norm + 1e-30);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

}  // namespace nibble::testing
