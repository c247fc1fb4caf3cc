#include "backend/reference/reference_backend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "backend/host/host_data.h"
#include "backend/host/host_logits.h"
#include "backend/host/host_memory.h"
#include "backend/reference/reference_algebra.h"
#include "base/check.h"
#include "base/float16.h"
#include "base/system.h"

namespace nibble {
namespace {

// A matrix (or a vector, as one row) of floats.
struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> values;

  const float* row(int64_t index) const { return values.data() + index * cols; }
};

std::vector<MatrixShape> ShapesOf(const std::vector<Matrix>& parts) {
  std::vector<MatrixShape> shapes;
  for (const Matrix& part : parts) shapes.push_back({part.rows, part.cols});
  return shapes;
}

class ReferenceWeight final : public Weight {
 public:
  explicit ReferenceWeight(std::vector<Matrix> parts)
      : Weight(ShapesOf(parts)), parts_(std::move(parts)) {}

  int64_t size_bytes() const override {
    int64_t bytes = 0;
    for (const Matrix& part : parts_) {
      bytes += static_cast<int64_t>(part.values.size() * sizeof(float));
    }
    return bytes;
  }
  const Matrix& matrix(int64_t index) const { return parts_.at(index); }

 private:
  std::vector<Matrix> parts_;
};

// Part `part` of a weight, which must have this shape.
const Matrix& Part(const Weight* weight, int64_t part, int64_t rows, int64_t cols) {
  NIBBLE_CHECK(weight != nullptr);
  const Matrix& matrix = static_cast<const ReferenceWeight*>(weight)->matrix(part);
  NIBBLE_CHECK(matrix.rows == rows && matrix.cols == cols);
  return matrix;
}

const float* Vector(const Weight* weight, int64_t size) { return Part(weight, 0, 1, size).row(0); }

double Dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// out = x / sqrt(mean(x^2) + eps) * weight, over n elements; out may be x.
void RmsNorm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  const double scale =
      1.0 / std::sqrt(Dot(x, x, n) / static_cast<double>(n) + static_cast<double>(eps));
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(static_cast<double>(x[i]) * scale * static_cast<double>(weight[i]));
  }
}

// out[r] = weight[r] . x
void Multiply(const Matrix& weight, const float* x, float* out) {
  for (int64_t r = 0; r < weight.rows; ++r) {
    out[r] = static_cast<float>(Dot(weight.row(r), x, weight.cols));
  }
}

// Rotates each head of `heads` by the angles of `position`. The angle is rounded to float, as the
// published implementations do; its sine and cosine are not.
void Rotate(float* heads, int64_t num_heads, int64_t head_dim, int32_t position,
            const Rotary& rotary) {
  const int64_t half = static_cast<int64_t>(rotary.inverse_frequencies.size());
  for (int64_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * rotary.inverse_frequencies[i];
    const double factor = static_cast<double>(rotary.factor);
    const double cosine = std::cos(static_cast<double>(angle)) * factor;
    const double sine = std::sin(static_cast<double>(angle)) * factor;
    for (int64_t head = 0; head < num_heads; ++head) {
      float& first = heads[head * head_dim + i];
      float& second = heads[head * head_dim + i + half];
      const double a = static_cast<double>(first);
      const double b = static_cast<double>(second);
      first = static_cast<float>(a * cosine - b * sine);
      second = static_cast<float>(b * cosine + a * sine);
    }
  }
}

// Access to the key or value of one head and token in its page.
class PageRow {
 public:
  PageRow(const HostKvLayer& kv, int64_t block, bool key, int64_t head, int64_t slot)
      : kv_(kv), key_(key), slot_(slot) {
    NIBBLE_CHECK(block >= 0 && block < kv.num_blocks);
    NIBBLE_CHECK(kv.dtype == DType::kF32 || kv.dtype == DType::kBF16 || kv.dtype == DType::kI8);
    part_ = static_cast<std::byte*>(kv.data) + block * kv.bytes_per_block() +
            (key ? kv.key_part(head) : kv.value_part(head));
  }

  void Store(const float* values) const {
    float largest = 0;
    bool finite = true;
    for (int64_t d = 0; d < kv_.head_dim; ++d) {
      largest = std::max(largest, std::abs(values[d]));
      finite = finite && std::isfinite(values[d]);
    }
    float scale = largest / 127.0f;
    if (scale < 1e-37f) scale = 0;
    if (!finite) scale = std::numeric_limits<float>::quiet_NaN();
    for (int64_t d = 0; d < kv_.head_dim; ++d) {
      if (kv_.dtype == DType::kI8) {
        const float code = scale > 0 ? std::nearbyint(values[d] / scale) : 0.0f;
        *At<uint8_t>(Offset(d)) = static_cast<uint8_t>(128 + static_cast<int>(code));
      } else if (kv_.dtype == DType::kBF16) {
        *At<BFloat16>(Offset(d)) = BFloat16(values[d]);
      } else {
        *At<float>(Offset(d)) = values[d];
      }
    }
    if (kv_.dtype == DType::kI8) *At<float>(kv_.scale_offset(slot_)) = scale;
  }

  double operator[](int64_t d) const {
    if (kv_.dtype == DType::kI8) {
      const int code = static_cast<int>(*At<uint8_t>(Offset(d))) - 128;
      return code * static_cast<double>(*At<float>(kv_.scale_offset(slot_)));
    }
    return static_cast<double>(kv_.dtype == DType::kBF16
                                   ? static_cast<float>(*At<BFloat16>(Offset(d)))
                                   : *At<float>(Offset(d)));
  }

 private:
  int64_t Offset(int64_t d) const {
    return key_ ? kv_.key_offset(slot_, d) : kv_.value_offset(slot_, d);
  }
  template <typename T>
  T* At(int64_t offset) const {
    return reinterpret_cast<T*>(part_ + offset);
  }

  const HostKvLayer& kv_;
  bool key_;
  int64_t slot_;
  std::byte* part_;
};

double Silu(double x) { return x / (1.0 + std::exp(-x)); }

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// As RouterShape documents; `correction` may be null.
void ChooseExperts(const RouterShape& shape, std::span<const float> logits, const float* correction,
                   std::span<int32_t> experts, std::span<float> weights) {
  const size_t num_experts = logits.size();
  std::vector<double> scores(num_experts);
  const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) - largest);
  for (size_t e = 0; e < num_experts; ++e) {
    const double logit = static_cast<double>(logits[e]);
    scores[e] =
        shape.score == RouterScore::kSigmoid ? Sigmoid(logit) : std::exp(logit - largest) / total;
  }
  const auto choice = [&](size_t e) {
    return correction != nullptr                  ? scores[e] + static_cast<double>(correction[e])
           : shape.score == RouterScore::kSigmoid ? scores[e]
                                                  : static_cast<double>(logits[e]);
  };
  std::vector<bool> chosen(num_experts, false);
  double chosen_sum = 0;
  for (int32_t& expert : experts) {
    size_t best = num_experts;
    for (size_t e = 0; e < num_experts; ++e) {
      if (chosen[e]) continue;
      if (best == num_experts || choice(e) > choice(best)) best = e;
    }
    chosen[best] = true;
    expert = static_cast<int32_t>(best);
    chosen_sum += scores[best];
  }
  for (size_t i = 0; i < experts.size(); ++i) {
    const double score = scores[experts[i]];
    weights[i] = static_cast<float>((shape.renormalise ? score / chosen_sum : score) *
                                    static_cast<double>(shape.scale));
  }
}

}  // namespace

ReferenceBackend::ReferenceBackend() : algebra_(std::make_unique<ReferenceAlgebra>()) {}
ReferenceBackend::~ReferenceBackend() = default;

int64_t ReferenceBackend::FreeBytes() const { return AvailableMemoryBytes(); }

Activation ReferenceBackend::MakeActivation(int64_t capacity_rows, int64_t cols) {
  return HostActivation(capacity_rows, cols);
}

int64_t ReferenceBackend::KvBlockBytes(const KvShape& shape) const {
  return HostKvPages::BlockBytes(shape);
}

std::unique_ptr<KvPages> ReferenceBackend::MakeKvPages(const KvShape& shape, int64_t num_blocks) {
  return std::make_unique<HostKvPages>(shape, num_blocks);
}

std::unique_ptr<Routing> ReferenceBackend::MakeRouting(const RouterShape& /*shape*/,
                                                       int64_t /*max_tokens*/) {
  return std::make_unique<HostRouting>();
}

std::unique_ptr<LogitRows> ReferenceBackend::MakeLogitRows(int64_t max_rows, int64_t vocab_size) {
  return std::make_unique<HostLogits>(max_rows, vocab_size, threads());
}

std::unique_ptr<Weight> ReferenceBackend::Prepare(std::span<const WeightView> parts, Role /*role*/,
                                                  const PartCopied& copied) {
  std::vector<Matrix> matrices;
  for (const WeightView& part : parts) {
    const MatrixShape shape = ShapeOf(part);
    const auto* packed = std::get_if<PackedView>(&part);
    matrices.push_back(
        {shape.rows, shape.cols,
         packed != nullptr ? Dequantize(*packed) : ToFloat(std::get<TensorView>(part))});
    copied(matrices.size() - 1);
  }
  return std::make_unique<ReferenceWeight>(std::move(matrices));
}

int64_t ReferenceBackend::WeightBytes(std::span<const WeightView> parts, Role /*role*/) const {
  int64_t elements = 0;
  for (const WeightView& part : parts) {
    const MatrixShape shape = ShapeOf(part);
    elements += shape.rows * shape.cols;
  }
  return elements * static_cast<int64_t>(sizeof(float));
}

void ReferenceBackend::Upload(std::span<const float> host, Activation& x) {
  NIBBLE_CHECK(static_cast<int64_t>(host.size()) == x.rows * x.cols);
  std::copy(host.begin(), host.end(), HostData(x));
}

void ReferenceBackend::Download(const Activation& x, std::span<float> host) {
  NIBBLE_CHECK(static_cast<int64_t>(host.size()) == x.rows * x.cols);
  std::copy_n(HostData(x), host.size(), host.begin());
}

void ReferenceBackend::Upload(const RoutingTable& table, Routing& routing) {
  HostTable(routing) = table;
}

void ReferenceBackend::Download(const Routing& routing, RoutingTable& table) {
  table = HostTable(routing);
}

void ReferenceBackend::BeginStep(const Batch& batch, KvPages& kv) {
  NIBBLE_CHECK(batch_ == nullptr);
  NIBBLE_CHECK(batch.positions.size() == batch.tokens.size());
  NIBBLE_CHECK(static_cast<int64_t>(batch.starts.size()) == batch.num_sequences() + 1);
  NIBBLE_CHECK(batch.starts.front() == 0 && batch.starts.back() == batch.num_tokens());
  batch_ = &batch;
  kv_ = static_cast<HostKvPages*>(&kv);
}

void ReferenceBackend::EndStep() {
  batch_ = nullptr;
  kv_ = nullptr;
}

HostKvLayer ReferenceBackend::Pages(const AttentionShape& shape, int64_t layer) const {
  NIBBLE_CHECK(batch_ != nullptr);
  const HostKvLayer pages = kv_->layer(layer);
  NIBBLE_CHECK(pages.num_kv_heads == shape.num_kv_heads && pages.head_dim == shape.head_dim);
  return pages;
}

void ReferenceBackend::Embed(const Weight& table, Activation& x) {
  NIBBLE_CHECK(batch_ != nullptr);
  const Matrix& rows = Part(&table, 0, table.rows(), table.cols());
  x.Resize(batch_->num_tokens(), rows.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    const int32_t token = batch_->tokens[t];
    NIBBLE_CHECK(token >= 0 && token < rows.rows);
    std::copy_n(rows.row(token), x.cols, HostRow(x, t));
  }
}

void ReferenceBackend::NormQkvRopeStore(const Activation& x, const AttentionShape& shape,
                                        const AttentionWeights& w, int64_t layer,
                                        Activation& normed, Activation& q) {
  const int64_t dim = shape.head_dim;
  const int64_t q_rows = shape.num_heads * dim;
  const int64_t kv_rows = shape.num_kv_heads * dim;
  const Matrix& query = Part(w.qkv, 0, q_rows, x.cols);
  const Matrix& key = Part(w.qkv, 1, kv_rows, x.cols);
  const Matrix& value = Part(w.qkv, 2, kv_rows, x.cols);
  const HostKvLayer kv = Pages(shape, layer);
  NIBBLE_CHECK(x.rows == batch_->num_tokens());
  NIBBLE_CHECK(2 * static_cast<int64_t>(shape.rotary.inverse_frequencies.size()) <= dim);
  normed.Resize(x.rows, x.cols);
  q.Resize(x.rows, q_rows);
  const auto add_bias = [&](float* to, int64_t part, int64_t count) {
    if (w.qkv_bias == nullptr) return;
    const float* const bias = Part(w.qkv_bias, part, 1, count).row(0);
    for (int64_t i = 0; i < count; ++i) to[i] += bias[i];
  };
  const auto norm_heads = [&](float* heads, int64_t num_heads, const Weight* norm) {
    if (norm == nullptr) return;
    for (int64_t head = 0; head < num_heads; ++head) {
      float* const of_head = heads + head * dim;
      RmsNorm(of_head, Vector(norm, dim), dim, shape.norm_eps, of_head);
    }
  };

  std::vector<float> k(kv_rows);
  std::vector<float> v(kv_rows);
  for (int64_t s = 0; s < batch_->num_sequences(); ++s) {
    const auto blocks = batch_->blocks(s);
    for (int64_t t = batch_->starts[s]; t < batch_->starts[s + 1]; ++t) {
      RmsNorm(HostRow(x, t), Vector(w.norm, x.cols), x.cols, shape.norm_eps, HostRow(normed, t));
      const int32_t position = batch_->positions[t];
      Multiply(query, HostRow(normed, t), HostRow(q, t));
      Multiply(key, HostRow(normed, t), k.data());
      Multiply(value, HostRow(normed, t), v.data());
      add_bias(HostRow(q, t), 0, q_rows);
      add_bias(k.data(), 1, kv_rows);
      add_bias(v.data(), 2, kv_rows);
      norm_heads(HostRow(q, t), shape.num_heads, w.q_norm);
      norm_heads(k.data(), shape.num_kv_heads, w.k_norm);
      Rotate(HostRow(q, t), shape.num_heads, dim, position, shape.rotary);
      Rotate(k.data(), shape.num_kv_heads, dim, position, shape.rotary);

      const int64_t block = blocks[position / kv.block_size];
      const int64_t slot = position % kv.block_size;
      for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        PageRow(kv, block, true, head, slot).Store(k.data() + head * dim);
        PageRow(kv, block, false, head, slot).Store(v.data() + head * dim);
      }
    }
  }
}

void ReferenceBackend::Attention(const Activation& q, const AttentionShape& shape,
                                 const AttentionWeights& w, int64_t layer, Activation& out) {
  const HostKvLayer kv = Pages(shape, layer);
  const int64_t head_dim = shape.head_dim;
  const int64_t num_heads = shape.num_heads;
  NIBBLE_CHECK(q.rows == batch_->num_tokens() && q.cols == num_heads * head_dim);
  out.Resize(q.rows, q.cols);
  const int64_t heads_per_kv_head = num_heads / kv.num_kv_heads;
  const double scale = shape.scale != 0 ? static_cast<double>(shape.scale)
                                        : 1.0 / std::sqrt(static_cast<double>(head_dim));
  const float* const sinks = w.sinks != nullptr ? Vector(w.sinks, num_heads) : nullptr;

  std::vector<double> scores;
  std::vector<double> sum(head_dim);
  for (int64_t s = 0; s < batch_->num_sequences(); ++s) {
    const auto blocks = batch_->blocks(s);
    for (int64_t t = batch_->starts[s]; t < batch_->starts[s + 1]; ++t) {
      const int64_t position = batch_->positions[t];
      const int64_t window = shape.sliding_window;
      const int64_t first = window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0;
      for (int64_t head = 0; head < num_heads; ++head) {
        const int64_t kv_head = head / heads_per_kv_head;
        const float* query = HostRow(q, t) + head * head_dim;
        const auto row = [&](bool key, int64_t p) {
          return PageRow(kv, blocks[p / kv.block_size], key, kv_head, p % kv.block_size);
        };

        scores.assign(position + 1 - first, 0.0);
        double largest = sinks != nullptr ? static_cast<double>(sinks[head])
                                          : -std::numeric_limits<double>::infinity();
        for (int64_t p = first; p <= position; ++p) {
          const PageRow key = row(true, p);
          double dot = 0;
          for (int64_t d = 0; d < head_dim; ++d) {
            dot += static_cast<double>(query[d]) * key[d];
          }
          scores[p - first] = dot * scale;
          largest = std::max(largest, dot * scale);
        }
        double total =
            sinks != nullptr ? std::exp(static_cast<double>(sinks[head]) - largest) : 0.0;
        for (double& score : scores) total += score = std::exp(score - largest);
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t p = first; p <= position; ++p) {
          const PageRow value = row(false, p);
          const double weight = scores[p - first] / total;
          for (int64_t d = 0; d < head_dim; ++d) {
            sum[d] += weight * value[d];
          }
        }
        for (int64_t d = 0; d < head_dim; ++d) {
          HostRow(out, t)[head * head_dim + d] = static_cast<float>(sum[d]);
        }
      }
    }
  }
}

void ReferenceBackend::ProjectResidual(const Activation& a, const AttentionWeights& w,
                                       Activation& x) {
  const Matrix& out = Part(w.out, 0, x.cols, a.cols);
  const float* const bias = w.out_bias != nullptr ? Vector(w.out_bias, x.cols) : nullptr;
  NIBBLE_CHECK(a.rows == x.rows);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t i = 0; i < x.cols; ++i) {
      float& value = HostRow(x, t)[i];
      value =
          static_cast<float>(static_cast<double>(value) + Dot(out.row(i), HostRow(a, t), a.cols) +
                             (bias != nullptr ? static_cast<double>(bias[i]) : 0.0));
    }
  }
}

void ReferenceBackend::NormRoute(const Activation& x, const RouterShape& shape,
                                 const RouterWeights& w, Activation& h, Routing& routing) {
  h.Resize(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    RmsNorm(HostRow(x, t), Vector(w.norm, x.cols), x.cols, shape.norm_eps, HostRow(h, t));
  }
  RoutingTable& table = HostTable(routing);
  if (shape.dense()) return table.SelectAll(x.rows);

  const Matrix& router = Part(w.router, 0, shape.num_experts, x.cols);
  const float* const correction =
      w.correction != nullptr ? Vector(w.correction, shape.num_experts) : nullptr;
  NIBBLE_CHECK(shape.top_k >= 1 && shape.top_k <= shape.num_experts);
  table.num_tokens = x.rows;
  table.num_experts = shape.num_experts;
  table.top_k = shape.top_k;
  const size_t num_experts = static_cast<size_t>(shape.num_experts);
  const size_t top_k = static_cast<size_t>(shape.top_k);
  const size_t tokens = static_cast<size_t>(x.rows);
  table.experts.resize(tokens * top_k);
  table.weights.resize(tokens * top_k);
  table.logits.resize(tokens * num_experts);
  for (size_t t = 0; t < tokens; ++t) {
    const auto logits = std::span(table.logits).subspan(t * num_experts, num_experts);
    Multiply(router, HostRow(h, static_cast<int64_t>(t)), logits.data());
    ChooseExperts(shape, logits, correction, std::span(table.experts).subspan(t * top_k, top_k),
                  std::span(table.weights).subspan(t * top_k, top_k));
  }
  table.GroupByExpert(0, table.num_experts);
}

void ReferenceBackend::RouteShared(const Activation& h, const Weight* gate, Routing& routing) {
  RoutingTable& table = HostTable(routing);
  table.SelectAll(h.rows);
  if (gate == nullptr) return;
  const Matrix& matrix = Part(gate, 0, 1, h.cols);
  for (int64_t t = 0; t < h.rows; ++t) {
    const float weight = static_cast<float>(Sigmoid(Dot(matrix.row(0), HostRow(h, t), h.cols)));
    table.weights[t] = table.slot_weights[t] = weight;
  }
}

void ReferenceBackend::GateUp(const Activation& h, const Routing& routing, const ExpertWeights& w,
                              Activation& g) {
  const RoutingTable& table = HostTable(routing);
  const int64_t middle = w.gate_up->rows();
  g.Resize(table.num_slots(), middle);
  for (int64_t e = 0; e < table.num_experts; ++e) {
    const size_t expert = static_cast<size_t>(e);
    for (int64_t slot = table.expert_starts[expert]; slot < table.expert_starts[expert + 1];
         ++slot) {
      const Matrix& gate = Part(w.gate_up, 2 * (e - w.first_expert), middle, h.cols);
      const Matrix& up = Part(w.gate_up, 2 * (e - w.first_expert) + 1, middle, h.cols);
      const float* x = HostRow(h, table.slot_tokens[slot]);
      for (int64_t i = 0; i < middle; ++i) {
        HostRow(g, slot)[i] =
            static_cast<float>(Silu(Dot(gate.row(i), x, h.cols)) * Dot(up.row(i), x, h.cols));
      }
    }
  }
}

void ReferenceBackend::DownResidual(const Activation& g, const Routing& routing,
                                    const ExpertWeights& w, Activation& x) {
  const RoutingTable& table = HostTable(routing);
  NIBBLE_CHECK(g.rows == table.num_slots());
  std::vector<double> sums(x.rows * x.cols, 0.0);
  for (int64_t e = 0; e < table.num_experts; ++e) {
    const size_t expert = static_cast<size_t>(e);
    for (int64_t slot = table.expert_starts[expert]; slot < table.expert_starts[expert + 1];
         ++slot) {
      const Matrix& down = Part(w.down, e - w.first_expert, x.cols, g.cols);
      const int64_t token = table.slot_tokens[slot];
      NIBBLE_CHECK(token >= 0 && token < x.rows);
      const double weight = static_cast<double>(table.slot_weights[slot]);
      for (int64_t i = 0; i < x.cols; ++i) {
        sums[token * x.cols + i] += weight * Dot(down.row(i), HostRow(g, slot), g.cols);
      }
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    HostData(x)[i] = static_cast<float>(static_cast<double>(HostData(x)[i]) + sums[i]);
  }
}

void ReferenceBackend::Head(const Activation& x, const HeadWeights& w,
                            std::span<const int32_t> rows, LogitRows& logits) {
  HostLogits& host = static_cast<HostLogits&>(logits);
  const Matrix& head = Part(w.head, 0, host.vocab_size(), x.cols);
  host.Resize(static_cast<int64_t>(rows.size()));
  std::vector<float> normed(x.cols);
  for (size_t i = 0; i < rows.size(); ++i) {
    NIBBLE_CHECK(rows[i] >= 0 && rows[i] < x.rows);
    RmsNorm(HostRow(x, rows[i]), Vector(w.norm, x.cols), x.cols, w.norm_eps, normed.data());
    Multiply(head, normed.data(), host.Row(static_cast<int64_t>(i)).data());
  }
}

}  // namespace nibble
