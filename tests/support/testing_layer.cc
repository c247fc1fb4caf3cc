#include "tests/support/testing_layer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/math.h"
#include "tensor/packed.h"

namespace nibble::testing {
namespace {

constexpr int64_t kLayer = 1;  // of the pages

// SplitMix64 as a counter-based generator: a number for each index, in any order.
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

int32_t TokenAt(size_t sequence, int64_t position, int64_t vocab) {
  return static_cast<int32_t>(Mix(sequence * 1000003 + static_cast<uint64_t>(position)) %
                              static_cast<uint64_t>(vocab));
}

Batch MakeBatch(const LayerCase& layer_case, bool fill_cache, int only) {
  Batch batch;
  batch.starts = {0};
  int64_t longest = 1;
  for (const auto& s : layer_case.sequences) longest = std::max(longest, s.cached + s.fresh);
  batch.max_blocks = static_cast<int32_t>(CeilDiv(longest, layer_case.block_size));
  for (size_t s = 0; s < layer_case.sequences.size(); ++s) {
    if (only >= 0 && static_cast<int>(s) != only) continue;
    const auto [cached, fresh] = layer_case.sequences[s];
    const int64_t first = fill_cache ? 0 : cached;
    const int64_t last = fill_cache ? cached : cached + fresh;
    for (int64_t position = first; position < last; ++position) {
      batch.positions.push_back(static_cast<int32_t>(position));
      batch.tokens.push_back(TokenAt(s, position, layer_case.shape.vocab));
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
  std::vector<float> host(x.rows * x.cols);
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
  std::vector<float> values(count);
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
    std::vector<int32_t> g_idx(cols);
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
  router_ = RandomWeight(dense, std::max<int64_t>(s.num_experts, 1), s.hidden, 8);
  for (int64_t e = 0; e < std::max<int64_t>(s.num_experts, 1); ++e) {
    const auto seed = static_cast<uint64_t>(100 + 10 * e);
    gate_.push_back(RandomWeight(format, s.intermediate, s.hidden, seed));
    up_.push_back(RandomWeight(format, s.intermediate, s.hidden, seed + 3));
    down_.push_back(RandomWeight(fitting(s.intermediate), s.hidden, s.intermediate, seed + 6));
  }
  head_norm_ = RandomNorm(s.hidden, 9);
  head_ = RandomWeight(dense, s.vocab, s.hidden, 10);
  const LayerExtras& extras = case_.extras;
  const auto vector = [](int64_t size, float spread, uint64_t seed) {
    std::vector<float> values = RandomValues(size, seed);
    for (float& value : values) value *= spread;
    return Dense(values, DType::kF32, Shape{size});
  };
  q_bias_ = vector(q_rows, 0.5f, 11);
  k_bias_ = vector(kv_rows, 0.5f, 12);
  v_bias_ = vector(kv_rows, 0.5f, 13);
  out_bias_ = vector(s.hidden, 0.5f, 14);
  q_norm_ = RandomNorm(s.head_dim, 15);
  k_norm_ = RandomNorm(s.head_dim, 16);
  sinks_ = vector(s.num_heads, 2.0f, 17);
  correction_ = vector(std::max<int64_t>(s.num_experts, 1), 0.3f, 18);
  if (extras.shared_intermediate > 0) {
    const int64_t width = extras.shared_intermediate;
    shared_gate_up_[0] = RandomWeight(format, width, s.hidden, 20);
    shared_gate_up_[1] = RandomWeight(format, width, s.hidden, 23);
    shared_down_ = RandomWeight(fitting(width), s.hidden, width, 26);
    shared_gate_ = RandomWeight(dense, 1, s.hidden, 29);
  }
  attention_shape_ = {.num_heads = s.num_heads,
                      .num_kv_heads = s.num_kv_heads,
                      .head_dim = s.head_dim,
                      .scale = extras.scale,
                      .sliding_window = case_.sliding_window};
  const int64_t rotary_dim = extras.rotary_dim > 0 ? extras.rotary_dim : s.head_dim;
  attention_shape_.rotary.factor = extras.rotary_factor;
  for (int64_t i = 0; i < rotary_dim / 2; ++i) {
    attention_shape_.rotary.inverse_frequencies.push_back(
        std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(rotary_dim)));
  }
  router_shape_ = {.num_experts = s.num_experts,
                   .top_k = s.top_k,
                   .score = extras.score,
                   .renormalise = extras.renormalise,
                   .scale = extras.router_scale};
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
  const LayerExtras& extras = case_.extras;
  const HostWeight* const biases[] = {&layer.q_bias_, &layer.k_bias_, &layer.v_bias_};
  if (extras.qkv_bias) attention_.qkv_bias = Prepare(biases, Role::kQkvBias);
  if (extras.out_bias) attention_.out_bias = Prepare(layer.out_bias_, Role::kOutBias);
  if (extras.sinks) attention_.sinks = Prepare(layer.sinks_, Role::kSinks);
  if (extras.qk_norm) {
    attention_.q_norm = Prepare(layer.q_norm_, Role::kVector);
    attention_.k_norm = Prepare(layer.k_norm_, Role::kVector);
  }
  router_.norm = Prepare(layer.expert_norm_, Role::kVector);
  if (!router_shape_.dense()) router_.router = Prepare(layer.router_, Role::kRouter);
  if (extras.correction) router_.correction = Prepare(layer.correction_, Role::kVector);
  if (extras.shared_intermediate > 0) {
    const HostWeight* const parts[] = {&layer.shared_gate_up_[0], &layer.shared_gate_up_[1]};
    shared_ = {.gate_up = Prepare(parts, Role::kGateUp),
               .down = Prepare(layer.shared_down_, Role::kDown)};
    if (extras.shared_gate) shared_gate_ = Prepare(layer.shared_gate_, Role::kRouter);
  }
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
  g_ = backend.MakeActivation(num_tokens, std::max(router_shape_.slots_per_token() * s.intermediate,
                                                   extras.shared_intermediate));
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
  RoutingTable routing;
  if (result != nullptr) backend_.Download(*routing_, routing);
  if (shared_.gate_up != nullptr) {
    backend_.RouteShared(h_, shared_gate_, *routing_);
    backend_.GateUp(h_, *routing_, shared_, g_);
    backend_.DownResidual(g_, *routing_, shared_, x_);
  }
  keep(&LayerResult::output, x_);
  backend_.Head(x_, head_, batch_.logit_rows, *logits_);
  if (result == nullptr) return;
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

namespace {

using Row = std::vector<double>;

std::vector<Row> Matrix(const HostWeight& weight) {
  const WeightView view = weight.view();
  const auto* packed = std::get_if<PackedView>(&view);
  const std::vector<float> values =
      packed != nullptr ? Dequantize(*packed) : ToFloat(std::get<TensorView>(view));
  const auto cols = static_cast<std::ptrdiff_t>(ShapeOf(view).cols);
  std::vector<Row> rows;
  for (auto row = values.begin(); row != values.end(); row += cols)
    rows.emplace_back(row, row + cols);
  return rows;
}

Row Vector(const HostWeight& weight) { return Matrix(weight).front(); }

double Dot(const Row& a, const Row& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

Row Times(const std::vector<Row>& matrix, const Row& x) {
  Row result;
  for (const Row& row : matrix) result.push_back(Dot(row, x));
  return result;
}

void AddTo(Row& x, const Row& y, double factor = 1) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += factor * y[i];
}

Row Normed(const Row& x, const Row& weight, double eps) {
  const double scale = 1 / std::sqrt(Dot(x, x) / static_cast<double>(x.size()) + eps);
  Row result;
  for (size_t i = 0; i < x.size(); ++i) result.push_back(x[i] * scale * weight[i]);
  return result;
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

Row Mlp(const HostWeight& gate, const HostWeight& up, const HostWeight& down, const Row& h) {
  Row middle = Times(Matrix(gate), h);
  const Row factors = Times(Matrix(up), h);
  for (size_t i = 0; i < middle.size(); ++i) middle[i] *= Sigmoid(middle[i]) * factors[i];
  return Times(Matrix(down), middle);
}

// Head `head` of a row of heads, normed and rotated as the layer does.
Row Head(const Row& heads, int64_t head, int64_t dim) {
  const auto begin = heads.begin() + head * dim;
  return Row(begin, begin + dim);
}

Row Rotated(Row head, int64_t position, const Rotary& rotary) {
  const size_t half = rotary.inverse_frequencies.size();
  for (size_t i = 0; i < half; ++i) {
    const double angle =
        static_cast<double>(static_cast<float>(position) * rotary.inverse_frequencies[i]);
    const double factor = static_cast<double>(rotary.factor);
    const double a = head[i], b = head[i + half];
    head[i] = (a * std::cos(angle) - b * std::sin(angle)) * factor;
    head[i + half] = (a * std::sin(angle) + b * std::cos(angle)) * factor;
  }
  return head;
}

// Weight of each expert for a token, zero for those not chosen.
Row ExpertWeightsOf(const RouterShape& shape, const Row& logits, const Row* correction) {
  double total = 0;
  for (const double logit : logits) total += std::exp(logit);
  Row scores, choices;
  for (size_t e = 0; e < logits.size(); ++e) {
    scores.push_back(shape.score == RouterScore::kSigmoid ? Sigmoid(logits[e])
                                                          : std::exp(logits[e]) / total);
    choices.push_back(scores[e] + (correction != nullptr ? (*correction)[e] : 0));
  }
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return choices[a] > choices[b] || (choices[a] == choices[b] && a < b);
  });
  order.resize(shape.top_k);
  Row weights(logits.size(), 0);
  double sum = 0;
  for (const size_t e : order) sum += scores[e];
  for (const size_t e : order) {
    weights[e] = scores[e] / (shape.renormalise ? sum : 1) * static_cast<double>(shape.scale);
  }
  return weights;
}

}  // namespace

std::vector<float> TestLayer::NaiveOutput() const {
  const LayerShape& s = case_.shape;
  const LayerExtras& extras = case_.extras;
  const double eps = static_cast<double>(attention_shape_.norm_eps);
  const double scale = extras.scale != 0 ? static_cast<double>(extras.scale)
                                         : 1 / std::sqrt(static_cast<double>(s.head_dim));
  const std::vector<Row> table = Matrix(embedding_);
  std::vector<float> output;
  for (size_t index = 0; index < case_.sequences.size(); ++index) {
    const auto [cached, fresh] = case_.sequences[index];
    std::vector<Row> x, q, k, v;
    const auto project = [&](const HostWeight& weight, const HostWeight& bias, const Row& input) {
      Row result = Times(Matrix(weight), input);
      if (extras.qkv_bias) AddTo(result, Vector(bias));
      return result;
    };
    for (int64_t position = 0; position < cached + fresh; ++position) {
      x.push_back(table[TokenAt(index, position, s.vocab)]);
      const Row normed = Normed(x.back(), Vector(attention_norm_), eps);
      q.push_back(project(q_, q_bias_, normed));
      k.push_back(project(k_, k_bias_, normed));
      v.push_back(project(v_, v_bias_, normed));
    }
    const auto prepared = [&](const Row& heads, int64_t head, const HostWeight& norm,
                              int64_t position) {
      Row result = Head(heads, head, s.head_dim);
      if (extras.qk_norm) result = Normed(result, Vector(norm), eps);
      return Rotated(result, position, attention_shape_.rotary);
    };
    for (int64_t position = cached; position < cached + fresh; ++position) {
      Row& residual = x[position];
      Row attended;
      for (int64_t head = 0; head < s.num_heads; ++head) {
        const int64_t kv_head = head * s.num_kv_heads / s.num_heads;
        const Row query = prepared(q[position], head, q_norm_, position);
        const int64_t window = case_.sliding_window;
        Row sum(static_cast<size_t>(s.head_dim), 0);
        double total = extras.sinks ? std::exp(Vector(sinks_)[static_cast<size_t>(head)]) : 0;
        for (int64_t p = window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0;
             p <= position; ++p) {
          const size_t at = static_cast<size_t>(p);
          const double weight = std::exp(scale * Dot(query, prepared(k[at], kv_head, k_norm_, p)));
          total += weight;
          AddTo(sum, Head(v[at], kv_head, s.head_dim), weight);
        }
        for (const double value : sum) attended.push_back(value / total);
      }
      AddTo(residual, Times(Matrix(o_), attended));
      if (extras.out_bias) AddTo(residual, Vector(out_bias_));

      const Row h = Normed(residual, Vector(expert_norm_), eps);
      if (router_shape_.dense()) {
        AddTo(residual, Mlp(gate_[0], up_[0], down_[0], h));
      } else {
        const Row correction = Vector(correction_);
        const Row weights = ExpertWeightsOf(router_shape_, Times(Matrix(router_), h),
                                            extras.correction ? &correction : nullptr);
        for (size_t e = 0; e < weights.size(); ++e) {
          if (weights[e] != 0) AddTo(residual, Mlp(gate_[e], up_[e], down_[e], h), weights[e]);
        }
      }
      if (extras.shared_intermediate > 0) {
        const double weight = extras.shared_gate ? Sigmoid(Dot(Vector(shared_gate_), h)) : 1;
        AddTo(residual, Mlp(shared_gate_up_[0], shared_gate_up_[1], shared_down_, h), weight);
      }
      output.insert(output.end(), residual.begin(), residual.end());
    }
  }
  return output;
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
