#include "backend/reference/reference_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "backend/reference/reference_linalg.h"
#include "base/check.h"
#include "base/float16.h"
#include "nibble/error.h"

namespace nibble {
namespace {

class ReferenceWeight final : public Weight {
 public:
  ReferenceWeight(int64_t rows, int64_t cols, std::vector<float> values)
      : rows_(rows), cols_(cols), values_(std::move(values)) {
    NIBBLE_CHECK(static_cast<int64_t>(values_.size()) == rows * cols);
  }

  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  int64_t size_bytes() const override {
    return static_cast<int64_t>(values_.size() * sizeof(float));
  }
  const float* row(int64_t index) const { return values_.data() + index * cols_; }

 private:
  int64_t rows_;
  int64_t cols_;
  std::vector<float> values_;
};

const ReferenceWeight& Cast(const Weight* weight) {
  NIBBLE_CHECK(weight != nullptr);
  return static_cast<const ReferenceWeight&>(*weight);
}

double Dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// out = x / sqrt(mean(x^2) + eps) * weight
void RmsNorm(const float* x, const ReferenceWeight& weight, float eps, float* out) {
  const int64_t n = weight.cols();
  const double scale =
      1.0 / std::sqrt(Dot(x, x, n) / static_cast<double>(n) + static_cast<double>(eps));
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(static_cast<double>(x[i]) * scale *
                                static_cast<double>(weight.row(0)[i]));
  }
}

// out[r] = weight[r] . x
void Multiply(const ReferenceWeight& weight, const float* x, float* out) {
  for (int64_t r = 0; r < weight.rows(); ++r) {
    out[r] = static_cast<float>(Dot(weight.row(r), x, weight.cols()));
  }
}

// Rotates each head of `heads` by the angles of `position`. The angle is rounded to float, as the
// published implementations do; its sine and cosine are not.
void Rotate(float* heads, int64_t num_heads, int64_t head_dim, int32_t position,
            std::span<const float> inverse_frequencies) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * inverse_frequencies[static_cast<size_t>(i)];
    const double cosine = std::cos(static_cast<double>(angle));
    const double sine = std::sin(static_cast<double>(angle));
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

// The key or value of one head and token in its page.
class PageRow {
 public:
  PageRow(const KvPages& kv, int64_t block, bool key, int64_t head, int64_t slot)
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

  const KvPages& kv_;
  bool key_;
  int64_t slot_;
  std::byte* part_;
};

// Sets the shape of an output, within the capacity it was made with.
void Resize(Activation& x, int64_t rows, int64_t cols) {
  NIBBLE_CHECK(x.cols == cols && rows <= x.capacity_rows());
  x.rows = rows;
}

double Silu(double x) { return x / (1.0 + std::exp(-x)); }

// The k largest of `logits` (a tie goes to the lower index) and their softmax weights: softmax over
// all, then divided by the sum of the chosen.
void ChooseExperts(std::span<const float> logits, std::span<int32_t> experts,
                   std::span<float> weights) {
  std::vector<bool> chosen(logits.size(), false);
  for (int32_t& expert : experts) {
    size_t best = logits.size();
    for (size_t e = 0; e < logits.size(); ++e) {
      if (chosen[e]) continue;
      if (best == logits.size() || logits[e] > logits[best]) best = e;
    }
    chosen[best] = true;
    expert = static_cast<int32_t>(best);
  }
  const double largest = static_cast<double>(logits[static_cast<size_t>(experts[0])]);
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) - largest);
  double chosen_sum = 0;
  const auto probability = [&](int32_t expert) {
    return std::exp(static_cast<double>(logits[static_cast<size_t>(expert)]) - largest) / total;
  };
  for (const int32_t expert : experts) chosen_sum += probability(expert);
  for (size_t i = 0; i < experts.size(); ++i) {
    weights[i] = static_cast<float>(probability(experts[i]) / chosen_sum);
  }
}

}  // namespace

ReferenceBackend::ReferenceBackend() : linalg_(std::make_unique<ReferenceLinalg>()) {}
ReferenceBackend::~ReferenceBackend() = default;

Linalg& ReferenceBackend::linalg() { return *linalg_; }

Buffer ReferenceBackend::Allocate(int64_t bytes) {
  constexpr std::align_val_t kAlignment{64};
  const size_t size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  void* data = ::operator new(size, kAlignment, std::nothrow);
  if (data == nullptr) {
    throw Error(ErrorCode::kResourceExhausted,
                "out of memory: could not allocate " + std::to_string(bytes) + " bytes");
  }
  std::memset(data, 0, size);
  return Buffer(data, bytes, [](void* pointer) { ::operator delete(pointer, kAlignment); });
}

std::unique_ptr<Weight> ReferenceBackend::Prepare(const WeightView& weight, Role /*role*/) {
  if (const auto* packed = std::get_if<PackedView>(&weight)) {
    return std::make_unique<ReferenceWeight>(packed->rows, packed->cols, Dequantize(*packed));
  }
  const TensorView& dense = std::get<TensorView>(weight);
  const int rank = dense.shape().rank();
  NIBBLE_CHECK(rank == 1 || rank == 2);
  const int64_t cols = dense.shape()[rank - 1];
  const int64_t rows = rank == 1 ? 1 : dense.shape()[0];
  return std::make_unique<ReferenceWeight>(rows, cols, ToFloat(dense));
}

void ReferenceBackend::Upload(std::span<const float> host, Activation& x) {
  NIBBLE_CHECK(static_cast<int64_t>(host.size()) == x.rows * x.cols);
  std::copy(host.begin(), host.end(), x.data());
}

void ReferenceBackend::Download(const Activation& x, std::span<float> host) {
  NIBBLE_CHECK(static_cast<int64_t>(host.size()) == x.rows * x.cols);
  std::copy_n(x.data(), host.size(), host.begin());
}

void ReferenceBackend::BeginStep(const Batch& batch) {
  NIBBLE_CHECK(batch_ == nullptr);
  NIBBLE_CHECK(batch.positions.size() == batch.tokens.size());
  NIBBLE_CHECK(static_cast<int64_t>(batch.starts.size()) == batch.num_sequences() + 1);
  NIBBLE_CHECK(batch.starts.front() == 0 && batch.starts.back() == batch.num_tokens());
  batch_ = &batch;
}

void ReferenceBackend::EndStep() { batch_ = nullptr; }

void ReferenceBackend::Embed(const Weight& table, Activation& x) {
  const ReferenceWeight& rows = Cast(&table);
  NIBBLE_CHECK(batch_ != nullptr);
  Resize(x, batch_->num_tokens(), rows.cols());
  for (int64_t t = 0; t < x.rows; ++t) {
    const int32_t token = batch_->tokens[static_cast<size_t>(t)];
    NIBBLE_CHECK(token >= 0 && token < rows.rows());
    std::copy_n(rows.row(token), x.cols, x.row(t));
  }
}

void ReferenceBackend::NormQkvRopeStore(const Activation& x, const AttentionWeights& w, KvPages kv,
                                        Activation& normed, Activation& q) {
  const ReferenceWeight& query = Cast(w.q);
  const ReferenceWeight& key = Cast(w.k);
  const ReferenceWeight& value = Cast(w.v);
  NIBBLE_CHECK(batch_ != nullptr && x.rows == batch_->num_tokens());
  NIBBLE_CHECK(query.rows() == w.num_heads * w.head_dim && query.cols() == x.cols);
  NIBBLE_CHECK(key.rows() == w.num_kv_heads * w.head_dim && key.cols() == x.cols);
  NIBBLE_CHECK(value.rows() == key.rows() && value.cols() == x.cols);
  NIBBLE_CHECK(kv.num_kv_heads == w.num_kv_heads && kv.head_dim == w.head_dim);
  NIBBLE_CHECK(static_cast<int64_t>(w.inverse_frequencies.size()) == w.head_dim / 2);
  Resize(normed, x.rows, x.cols);
  Resize(q, x.rows, query.rows());

  std::vector<float> k(static_cast<size_t>(key.rows()));
  std::vector<float> v(static_cast<size_t>(value.rows()));
  for (int64_t s = 0; s < batch_->num_sequences(); ++s) {
    const auto blocks = batch_->blocks(s);
    for (int64_t t = batch_->starts[static_cast<size_t>(s)];
         t < batch_->starts[static_cast<size_t>(s + 1)]; ++t) {
      RmsNorm(x.row(t), Cast(w.norm), w.norm_eps, normed.row(t));
      const int32_t position = batch_->positions[static_cast<size_t>(t)];
      Multiply(query, normed.row(t), q.row(t));
      Multiply(key, normed.row(t), k.data());
      Multiply(value, normed.row(t), v.data());
      Rotate(q.row(t), w.num_heads, w.head_dim, position, w.inverse_frequencies);
      Rotate(k.data(), w.num_kv_heads, w.head_dim, position, w.inverse_frequencies);

      const int64_t block = blocks[static_cast<size_t>(position / kv.block_size)];
      const int64_t slot = position % kv.block_size;
      for (int64_t head = 0; head < w.num_kv_heads; ++head) {
        PageRow(kv, block, true, head, slot).Store(k.data() + head * w.head_dim);
        PageRow(kv, block, false, head, slot).Store(v.data() + head * w.head_dim);
      }
    }
  }
}

void ReferenceBackend::Attention(const Activation& q, KvPages kv, int64_t sliding_window,
                                 Activation& out) {
  NIBBLE_CHECK(batch_ != nullptr && q.rows == batch_->num_tokens());
  Resize(out, q.rows, q.cols);
  const int64_t head_dim = kv.head_dim;
  const int64_t num_heads = q.cols / head_dim;
  const int64_t heads_per_kv_head = num_heads / kv.num_kv_heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));

  std::vector<double> scores;
  std::vector<double> sum(static_cast<size_t>(head_dim));
  for (int64_t s = 0; s < batch_->num_sequences(); ++s) {
    const auto blocks = batch_->blocks(s);
    for (int64_t t = batch_->starts[static_cast<size_t>(s)];
         t < batch_->starts[static_cast<size_t>(s + 1)]; ++t) {
      const int64_t position = batch_->positions[static_cast<size_t>(t)];
      const int64_t first =
          sliding_window > 0 ? std::max<int64_t>(0, position + 1 - sliding_window) : 0;
      for (int64_t head = 0; head < num_heads; ++head) {
        const int64_t kv_head = head / heads_per_kv_head;
        const float* query = q.row(t) + head * head_dim;
        const auto row = [&](bool key, int64_t p) {
          return PageRow(kv, blocks[static_cast<size_t>(p / kv.block_size)], key, kv_head,
                         p % kv.block_size);
        };

        scores.assign(static_cast<size_t>(position + 1 - first), 0.0);
        double largest = -std::numeric_limits<double>::infinity();
        for (int64_t p = first; p <= position; ++p) {
          const PageRow key = row(true, p);
          double dot = 0;
          for (int64_t d = 0; d < head_dim; ++d) {
            dot += static_cast<double>(query[d]) * key[d];
          }
          scores[static_cast<size_t>(p - first)] = dot * scale;
          largest = std::max(largest, dot * scale);
        }
        double total = 0;
        for (double& score : scores) total += score = std::exp(score - largest);
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t p = first; p <= position; ++p) {
          const PageRow value = row(false, p);
          const double weight = scores[static_cast<size_t>(p - first)] / total;
          for (int64_t d = 0; d < head_dim; ++d) {
            sum[static_cast<size_t>(d)] += weight * value[d];
          }
        }
        for (int64_t d = 0; d < head_dim; ++d) {
          out.row(t)[head * head_dim + d] = static_cast<float>(sum[static_cast<size_t>(d)]);
        }
      }
    }
  }
}

void ReferenceBackend::ProjectResidual(const Activation& a, const Weight& o, Activation& x) {
  const ReferenceWeight& weight = Cast(&o);
  NIBBLE_CHECK(a.cols == weight.cols() && x.cols == weight.rows() && a.rows == x.rows);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t i = 0; i < x.cols; ++i) {
      x.row(t)[i] = static_cast<float>(static_cast<double>(x.row(t)[i]) +
                                       Dot(weight.row(i), a.row(t), a.cols));
    }
  }
}

void ReferenceBackend::NormRoute(const Activation& x, const RouterWeights& w, Activation& h,
                                 Routing& routing) {
  const ReferenceWeight& router = Cast(w.router);
  NIBBLE_CHECK(router.cols() == x.cols && w.top_k >= 1 && w.top_k <= router.rows());
  Resize(h, x.rows, x.cols);
  routing.num_tokens = x.rows;
  routing.num_experts = router.rows();
  routing.top_k = w.top_k;
  routing.experts.resize(static_cast<size_t>(x.rows * w.top_k));
  routing.weights.resize(static_cast<size_t>(x.rows * w.top_k));
  routing.logits.resize(static_cast<size_t>(x.rows * router.rows()));

  const size_t num_experts = static_cast<size_t>(router.rows());
  const size_t top_k = static_cast<size_t>(w.top_k);
  for (int64_t t = 0; t < x.rows; ++t) {
    const size_t token = static_cast<size_t>(t);
    const auto logits = std::span(routing.logits).subspan(token * num_experts, num_experts);
    RmsNorm(x.row(t), Cast(w.norm), w.norm_eps, h.row(t));
    Multiply(router, h.row(t), logits.data());
    ChooseExperts(logits, std::span(routing.experts).subspan(token * top_k, top_k),
                  std::span(routing.weights).subspan(token * top_k, top_k));
  }
  routing.GroupByExpert(0, routing.num_experts);
}

void ReferenceBackend::ExpertsGateUp(const Activation& h, const Routing& routing,
                                     const ExpertWeights& w, Activation& g) {
  Resize(g, routing.num_slots(), g.cols);
  for (int64_t e = 0; e < routing.num_experts; ++e) {
    const size_t expert = static_cast<size_t>(e);
    for (int64_t slot = routing.expert_starts[expert]; slot < routing.expert_starts[expert + 1];
         ++slot) {
      const ReferenceWeight& gate = Cast(w.gate[expert]);
      const ReferenceWeight& up = Cast(w.up[expert]);
      NIBBLE_CHECK(gate.cols() == h.cols && up.cols() == h.cols);
      NIBBLE_CHECK(gate.rows() == g.cols && up.rows() == g.cols);
      const float* x = h.row(routing.slot_tokens[static_cast<size_t>(slot)]);
      for (int64_t i = 0; i < g.cols; ++i) {
        g.row(slot)[i] =
            static_cast<float>(Silu(Dot(gate.row(i), x, h.cols)) * Dot(up.row(i), x, h.cols));
      }
    }
  }
}

void ReferenceBackend::ExpertsDownResidual(const Activation& g, const Routing& routing,
                                           const ExpertWeights& w, Activation& x) {
  NIBBLE_CHECK(g.rows == routing.num_slots());
  std::vector<double> sums(static_cast<size_t>(x.rows * x.cols), 0.0);
  for (int64_t e = 0; e < routing.num_experts; ++e) {
    const size_t expert = static_cast<size_t>(e);
    for (int64_t slot = routing.expert_starts[expert]; slot < routing.expert_starts[expert + 1];
         ++slot) {
      const ReferenceWeight& down = Cast(w.down[expert]);
      NIBBLE_CHECK(down.cols() == g.cols && down.rows() == x.cols);
      const int64_t token = routing.slot_tokens[static_cast<size_t>(slot)];
      NIBBLE_CHECK(token >= 0 && token < x.rows);
      const double weight = static_cast<double>(routing.slot_weights[static_cast<size_t>(slot)]);
      for (int64_t i = 0; i < x.cols; ++i) {
        sums[static_cast<size_t>(token * x.cols + i)] +=
            weight * Dot(down.row(i), g.row(slot), g.cols);
      }
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    x.data()[i] = static_cast<float>(static_cast<double>(x.data()[i]) + sums[i]);
  }
}

void ReferenceBackend::Logits(const Activation& x, const HeadWeights& w,
                              std::span<const int32_t> rows, std::span<float> out) {
  const ReferenceWeight& head = Cast(w.head);
  NIBBLE_CHECK(head.cols() == x.cols);
  NIBBLE_CHECK(static_cast<int64_t>(out.size()) == static_cast<int64_t>(rows.size()) * head.rows());
  std::vector<float> normed(static_cast<size_t>(x.cols));
  for (size_t i = 0; i < rows.size(); ++i) {
    NIBBLE_CHECK(rows[i] >= 0 && rows[i] < x.rows);
    RmsNorm(x.row(rows[i]), Cast(w.norm), w.norm_eps, normed.data());
    Multiply(head, normed.data(), out.data() + static_cast<int64_t>(i) * head.rows());
  }
}

}  // namespace nibble
