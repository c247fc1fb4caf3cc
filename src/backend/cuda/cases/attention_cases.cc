#include <algorithm>
#include <cmath>

#include "backend/cuda/attention.cuh"
#include "backend/cuda/cases/paged_step.h"

namespace nibble::cuda::bench {
namespace {

struct AttentionShape {
  std::vector<SequenceRows> sequences;
  int32_t padding, page_tokens, q_heads, kv_heads, head_dim, window;
  bool int8 = false;
};

class Attention final : public Problem {
 public:
  Attention(const AttentionShape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    step_ = MakePagedStep(shape.sequences, shape.padding, shape.page_tokens, shape.kv_heads,
                          shape.head_dim, random);
    const int64_t elements = int64_t{step_.rows()} * shape.q_heads * shape.head_dim;
    q_ = random.Bf16(elements, 1);
    cache_ = RandomPages(step_.shape, shape.int8, random);
    PoisonUnusedSlots();
    scale_ = static_cast<float>(1 / std::sqrt(shape.head_dim));
    args_.q = Input("q", q_);
    if (shape.int8) {
      args_.cache.elements = const_cast<int8_t*>(Input("codes", cache_.codes));
      args_.cache.scales = const_cast<float*>(Input("scales", cache_.scales));
    } else {
      args_.cache.elements = const_cast<__nv_bfloat16*>(Input("cache", cache_.elements));
    }
    args_.positions = Input("positions", step_.positions);
    args_.sequences = Input("sequences", step_.sequences);
    args_.table = step_.table(Input("pages", step_.pages));
    args_.shape = step_.shape;
    args_.out = Output<__nv_bfloat16>("out", static_cast<size_t>(elements), 3e-3);
    args_.rows = step_.rows();
    args_.q_heads = shape.q_heads;
    args_.window = shape.window;
    args_.scale = scale_;
    bytes_ = 4.0 * static_cast<double>(elements);
    for (const SequenceRows& s : shape.sequences) {
      const double keys = s.rows * (s.context - 0.5 * (s.rows - 1));
      bytes_ += 2 * cache_.bytes_per_element() * s.context * shape.kv_heads * shape.head_dim;
      operations_ += 4.0 * keys * shape.q_heads * shape.head_dim;
    }
  }

  cudaError_t Launch(cudaStream_t stream) override { return LaunchAttention(args_, stream); }

  void Twin(std::map<std::string, Doubles>& expected) const override {
    const auto head_dim = static_cast<size_t>(shape_.head_dim);
    for (int32_t row = 0; row < step_.rows(); ++row) {
      const int32_t last = step_.positions[static_cast<size_t>(row)];
      const int32_t first = shape_.window > 0 ? std::max(0, last - shape_.window + 1) : 0;
      const int32_t sequence = step_.sequences[static_cast<size_t>(row)];
      for (int32_t head = 0; head < shape_.q_heads; ++head) {
        const int32_t kv_head = head / (shape_.q_heads / shape_.kv_heads);
        Doubles sums(head_dim), scores;
        const auto query = static_cast<size_t>(int64_t{row} * shape_.q_heads + head) * head_dim;
        for (int32_t p = first; p <= last && sequence != kPaddingRow; ++p) {
          double score = 0;
          const size_t key = step_.KeyAt(sequence, p, kv_head);
          for (size_t d = 0; d < head_dim; ++d)
            score += ToDouble(q_[query + d]) * cache_.At(key + d);
          scores.push_back(score * static_cast<double>(scale_));
        }
        double total = 0;
        for (size_t i = 0; i < scores.size(); ++i) {
          const double weight =
              std::exp(scores[i] - *std::max_element(scores.begin(), scores.end()));
          const size_t value = step_.ValueAt(sequence, first + static_cast<int32_t>(i), kv_head);
          for (size_t d = 0; d < head_dim; ++d) sums[d] += weight * cache_.At(value + d);
          total += weight;
        }
        for (const double sum : sums) expected["out"].push_back(scores.empty() ? 0 : sum / total);
      }
    }
  }

 private:
  // Fills every slot that no token of the step occupies with NaN, so that reading one shows.
  void PoisonUnusedSlots() {
    const auto head_dim = static_cast<size_t>(shape_.head_dim);
    std::vector<bool> used(static_cast<size_t>(step_.shape.runs()));
    for (size_t s = 0; s < shape_.sequences.size(); ++s) {
      for (int32_t p = 0; p < shape_.sequences[s].context; ++p) {
        for (int32_t head = 0; head < 2 * shape_.kv_heads; ++head) {
          used[step_.KeyAt(static_cast<int32_t>(s), p, head) / head_dim] = true;
        }
      }
    }
    for (size_t run = 0; run < used.size(); ++run) {
      if (used[run]) continue;
      if (shape_.int8) {
        cache_.scales[run] = NAN;
      } else {
        std::fill_n(cache_.elements.begin() + static_cast<std::ptrdiff_t>(run * head_dim), head_dim,
                    __float2bfloat16(NAN));
      }
    }
  }

  AttentionShape shape_;
  PagedStep step_;
  float scale_ = 0;
  std::vector<__nv_bfloat16> q_;
  HostPages cache_;
  AttentionArgs args_ = {};
};

}  // namespace

std::vector<Case> AttentionCases() {
  std::vector<Case> cases;
  const auto add = [&](AttentionShape shape, const std::string& name, bool small) {
    AddCase<Attention>(cases, "attention", name, shape, small);
    shape.int8 = true;
    AddCase<Attention>(cases, "attention_int8", name, shape, small);
  };
  add({{{1, 1}}, 0, 4, 2, 2, 32, 0}, "tiny", true);
  add({{{1, 17}, {5, 9}, {3, 3}}, 2, 4, 6, 2, 64, 0}, "ragged, padded", true);
  add({{{2, 37}, {1, 5}}, 0, 8, 6, 1, 128, 6}, "window of 6", true);
  add({{{1, 2048}}, 0, 64, 48, 8, 128, 0}, "decode 1 at 2048", false);
  add({std::vector<SequenceRows>(64, {1, 1024}), 0, 64, 48, 8, 128, 0}, "decode 64 at 1024", false);
  add({{{1024, 1024}}, 0, 64, 48, 8, 128, 0}, "prompt of 1024", false);
  return cases;
}

}  // namespace nibble::cuda::bench
