#include "tests/support/testing_layer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tensor/packed.h"

namespace nibble::testing {
namespace {

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
  for (int64_t i = 0; i < s.head_dim / 2; ++i) {
    inverse_frequencies_.push_back(
        std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(s.head_dim)));
  }
}

LayerOnBackend::LayerOnBackend(const TestLayer& layer, Backend& backend, int only)
    : backend_(backend), case_(layer.case_), batch_(MakeBatch(case_, false, only)) {
  const LayerShape& s = case_.shape;
  embedding_ = Prepare(layer.embedding_, Role::kEmbedding);
  attention_ = {.norm = Prepare(layer.attention_norm_, Role::kNorm),
                .q = Prepare(layer.q_, Role::kProjection),
                .k = Prepare(layer.k_, Role::kProjection),
                .v = Prepare(layer.v_, Role::kProjection),
                .num_heads = s.num_heads,
                .num_kv_heads = s.num_kv_heads,
                .head_dim = s.head_dim,
                .inverse_frequencies = layer.inverse_frequencies_};
  o_ = Prepare(layer.o_, Role::kProjection);
  router_ = {.norm = Prepare(layer.expert_norm_, Role::kNorm),
             .router = Prepare(layer.router_, Role::kRouter),
             .top_k = s.top_k};
  for (size_t e = 0; e < layer.gate_.size(); ++e) {
    experts_.gate.push_back(Prepare(layer.gate_[e], Role::kProjection));
    experts_.up.push_back(Prepare(layer.up_[e], Role::kProjection));
    experts_.down.push_back(Prepare(layer.down_[e], Role::kProjection));
  }
  head_ = {.norm = Prepare(layer.head_norm_, Role::kNorm),
           .head = Prepare(layer.head_, Role::kHead)};

  int64_t num_tokens = 1, longest = 1;
  for (const auto& sequence : case_.sequences) {
    num_tokens += sequence.cached + sequence.fresh;
    longest = std::max(longest, sequence.cached + sequence.fresh);
  }
  kv_ = {.dtype = case_.kv_dtype,
         .num_blocks = (longest + case_.block_size - 1) / case_.block_size *
                       static_cast<int64_t>(case_.sequences.size()),
         .block_size = case_.block_size,
         .num_kv_heads = s.num_kv_heads,
         .head_dim = s.head_dim};
  pages_ = backend.Allocate(kv_.num_blocks * kv_.bytes_per_block());
  kv_.data = pages_.data();
  x_ = backend.MakeActivation(num_tokens, s.hidden);
  normed_ = backend.MakeActivation(num_tokens, s.hidden);
  q_ = backend.MakeActivation(num_tokens, s.num_heads * s.head_dim);
  attended_ = backend.MakeActivation(num_tokens, q_.cols);
  h_ = backend.MakeActivation(num_tokens, s.hidden);
  g_ = backend.MakeActivation(num_tokens * s.top_k, s.intermediate);
  logits_.resize(batch_.logit_rows.size() * static_cast<size_t>(s.vocab));

  const Batch cache = MakeBatch(case_, true, only);
  if (cache.num_tokens() > 0) {
    backend.BeginStep(cache);
    backend.Embed(*embedding_, x_);
    backend.NormQkvRopeStore(x_, attention_, kv_, normed_, q_);
    backend.EndStep();
  }
}

const Weight* LayerOnBackend::Prepare(const HostWeight& weight, Role role) {
  return weights_.emplace_back(backend_.Prepare(weight.view(), role)).get();
}

void LayerOnBackend::Step(LayerResult* result) {
  const auto keep = [&](std::vector<float> LayerResult::* member, const Activation& x) {
    if (result != nullptr) result->*member = Copy(backend_, x);
  };
  backend_.BeginStep(batch_);
  backend_.Embed(*embedding_, x_);
  backend_.NormQkvRopeStore(x_, attention_, kv_, normed_, q_);
  keep(&LayerResult::normed, normed_);
  keep(&LayerResult::queries, q_);
  backend_.Attention(q_, kv_, case_.sliding_window, attended_);
  keep(&LayerResult::attended, attended_);
  backend_.ProjectResidual(attended_, *o_, x_);
  keep(&LayerResult::after_attention, x_);
  backend_.NormRoute(x_, router_, h_, routing_);
  keep(&LayerResult::expert_input, h_);
  for (size_t e = 0; e < experts_.gate.size(); ++e) {  // an expert without slots may be absent
    if (routing_.expert_starts[e] == routing_.expert_starts[e + 1]) {
      experts_.gate[e] = experts_.up[e] = experts_.down[e] = nullptr;
    }
  }
  backend_.ExpertsGateUp(h_, routing_, experts_, g_);
  keep(&LayerResult::middle, g_);
  backend_.ExpertsDownResidual(g_, routing_, experts_, x_);
  keep(&LayerResult::output, x_);
  backend_.Logits(x_, head_, batch_.logit_rows, logits_);
  backend_.EndStep();
  if (result != nullptr) {
    result->router_logits = routing_.logits;
    result->expert_weights = routing_.weights;
    result->experts = routing_.experts;
    result->logits = logits_;
  }
}

LayerResult TestLayer::Run(Backend& backend, int only) const {
  LayerResult result;
  LayerOnBackend(*this, backend, only).Step(&result);
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
