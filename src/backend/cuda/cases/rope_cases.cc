#include <algorithm>
#include <cmath>

#include "backend/cuda/cases/paged_step.h"
#include "backend/cuda/rope.cuh"

namespace nibble::cuda::bench {
namespace {

struct RopeShape {
  std::vector<SequenceRows> sequences;
  int32_t padding, page_tokens, q_heads, kv_heads, head_dim;
  bool int8 = false;
};

class RopeStore final : public Problem {
 public:
  RopeStore(const RopeShape& shape, uint64_t seed) : q_heads_(shape.q_heads) {
    Random random(seed);
    step_ = MakePagedStep(shape.sequences, shape.padding, shape.page_tokens, shape.kv_heads,
                          shape.head_dim, random);
    const int32_t half = shape.head_dim / 2;
    for (int32_t position = 0; position < step_.max_pages * shape.page_tokens; ++position) {
      for (int32_t i = 0; i < half; ++i) {
        const double angle = position * std::pow(1e6, -2.0 * i / shape.head_dim);
        cos_sin_.push_back(
            {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))});
      }
    }
    qkv_ = random.Bf16(
        int64_t{step_.rows()} * (shape.q_heads + 2 * shape.kv_heads) * shape.head_dim, 1);
    if (shape.int8) {  // the first two values of the first token: one tiny, one infinite
      const auto values = qkv_.begin() + int64_t{shape.q_heads + shape.kv_heads} * shape.head_dim;
      std::fill_n(values, shape.head_dim, __float2bfloat16(1e-38f));
      if (shape.kv_heads > 1) values[shape.head_dim + 1] = __float2bfloat16(-INFINITY);
    }
    cache_ = RandomPages(step_.shape, shape.int8, random);
    const auto q_elements =
        static_cast<size_t>(step_.rows()) * static_cast<size_t>(shape.q_heads * shape.head_dim);
    args_.qkv = Input("qkv", qkv_);
    args_.cos_sin = Input("cos_sin", cos_sin_);
    args_.positions = Input("positions", step_.positions);
    args_.sequences = Input("sequences", step_.sequences);
    args_.table = step_.table(Input("pages", step_.pages));
    args_.shape = step_.shape;
    args_.q = Output<__nv_bfloat16>("q", q_elements, 2e-3);
    if (shape.int8) {
      args_.cache.elements = InOut("codes", cache_.codes, 2e-3);
      args_.cache.scales = InOut("scales", cache_.scales, 1e-6);
    } else {
      args_.cache.elements = InOut("cache", cache_.elements, 2e-3);
    }
    args_.rows = step_.rows();
    args_.q_heads = shape.q_heads;
    bytes_ = 4.0 * static_cast<double>(qkv_.size()) + 4.0 * step_.rows() * shape.head_dim;
    operations_ = 3.0 * static_cast<double>(qkv_.size());
  }

  cudaError_t Launch(cudaStream_t stream) override { return LaunchRopeStore(args_, stream); }

  // Expects the whole cache: slots that do not belong to the step's tokens are unchanged.
  void Twin(std::map<std::string, Doubles>& expected) const override {
    const bool int8 = !cache_.scales.empty();
    Doubles& cache = expected[int8 ? "codes" : "cache"];
    Doubles& scales = expected["scales"];
    for (const __nv_bfloat16 value : cache_.elements) cache.push_back(ToDouble(value));
    for (const int8_t code : cache_.codes) cache.push_back(ToDouble(code));
    scales.assign(cache_.scales.begin(), cache_.scales.end());
    const int32_t head_dim = step_.shape.head_dim;
    const int32_t half = head_dim / 2;
    const int32_t kv_heads = step_.shape.kv_heads;
    const int32_t all_heads = q_heads_ + 2 * kv_heads;
    Doubles& q = expected["q"];
    for (int32_t row = 0; row < step_.rows(); ++row) {
      const int32_t position = step_.positions[static_cast<size_t>(row)];
      const int32_t sequence = step_.sequences[static_cast<size_t>(row)];
      for (int32_t head = 0; head < all_heads; ++head) {
        const size_t from = static_cast<size_t>((int64_t{row} * all_heads + head) * head_dim);
        Doubles rotated;
        for (int32_t d = 0; d < head_dim; ++d) {
          const double self = ToDouble(qkv_[from + static_cast<size_t>(d)]);
          const double other = ToDouble(qkv_[from + static_cast<size_t>((d + half) % head_dim)]);
          const float2 angle = cos_sin_[static_cast<size_t>(position * half + d % half)];
          const double sign = d < half ? -1 : 1;
          rotated.push_back(head >= q_heads_ + kv_heads
                                ? self
                                : self * static_cast<double>(angle.x) +
                                      sign * other * static_cast<double>(angle.y));
        }
        if (sequence == kPaddingRow) {
          if (head < q_heads_) q.insert(q.end(), static_cast<size_t>(head_dim), 0.0);
        } else if (head < q_heads_) {
          q.insert(q.end(), rotated.begin(), rotated.end());
        } else {
          const bool key = head < q_heads_ + kv_heads;
          const size_t to = key ? step_.KeyAt(sequence, position, head - q_heads_)
                                : step_.ValueAt(sequence, position, head - q_heads_ - kv_heads);
          if (int8) scales[to / static_cast<size_t>(head_dim)] = ToCodes(rotated);
          std::copy(rotated.begin(), rotated.end(),
                    cache.begin() + static_cast<std::ptrdiff_t>(to));
        }
      }
    }
  }

 private:
  // In place; returns the scale.
  static double ToCodes(Doubles& values) {
    double largest = 0;
    for (const double value : values) largest = std::max(largest, std::abs(value));
    const double scale = largest / 127;
    const bool codes = std::isfinite(scale) && scale >= 1e-37;
    for (double& value : values) value = codes ? std::nearbyint(value / scale) : 0;
    return codes ? scale : std::isfinite(scale) ? 0 : static_cast<double>(NAN);
  }

  int32_t q_heads_;
  PagedStep step_;
  std::vector<float2> cos_sin_;
  std::vector<__nv_bfloat16> qkv_;
  HostPages cache_;
  RopeStoreArgs args_ = {};
};

}  // namespace

std::vector<Case> RopeCases() {
  std::vector<Case> cases;
  const auto add = [&](RopeShape shape, const std::string& name) {
    AddCase<RopeStore>(cases, "rope_store", name, shape, shape.head_dim < 128);
    shape.int8 = true;
    AddCase<RopeStore>(cases, "rope_store_int8", name, shape, shape.head_dim < 128);
  };
  add({{{1, 1}}, 0, 4, 2, 1, 8}, "tiny");
  add({{{1, 7}, {5, 9}, {3, 3}, {1, 16}}, 3, 4, 6, 2, 32}, "ragged, padded");
  add({{{1, 2048}}, 0, 64, 48, 8, 128}, "1 token at 2048");
  add({std::vector<SequenceRows>(64, {1, 1024}), 0, 64, 48, 8, 128}, "64 tokens at 1024");
  add({{{2048, 2048}}, 0, 64, 48, 8, 128}, "prompt of 2048");
  return cases;
}

}  // namespace nibble::cuda::bench
