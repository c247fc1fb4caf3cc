#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cuda/cases/problem.h"
#include "backend/cuda/logits.cuh"
#include "base/random.h"

namespace nibble::cuda::bench {
namespace {

struct SampleShape {
  int32_t rows, vocab;
  bool ties = false;  // many equal logits
};

class Sample final : public Problem {
 public:
  Sample(const SampleShape& shape, uint64_t seed) : shape_(shape) {
    Random random(seed);
    logits_ = random.F32(int64_t{shape.rows} * shape.vocab, 3);
    for (float& logit : logits_) {
      if (shape.ties) logit = std::round(logit);
      if (random.Below(50) == 0) logit = -INFINITY;  // masked
    }
    for (int64_t row = 0; row < shape.rows; ++row) {
      SamplingRow params = {.temperature = row % 4 == 0 ? 0.0 : 0.5 + random.Uniform(),
                            .top_p = row % 3 == 1 ? 1.0 : 0.05 + 0.95 * random.Uniform(),
                            .min_p = row % 5 == 2 ? 0.1 * random.Uniform() : 0.0,
                            .seed = random.Next(),
                            .position = random.Next() >> (row % 2 == 0 ? 50 : 0),
                            .top_k = row % 2 == 0 ? 0 : 1 + random.Below(shape.vocab)};
      params_.push_back(params);
    }
    const auto rows = static_cast<size_t>(shape.rows);
    args_.logits = Input("logits", logits_);
    args_.params = Input("params", params_);
    args_.scratch = Scratch<double>(logits_.size());
    args_.tokens = Output<int32_t>("tokens", rows, 0);
    args_.log_probabilities = Output<double>("log_probabilities", rows, 1e-9);
    args_.rows = shape.rows;
    args_.vocab = shape.vocab;
    bytes_ = 4.0 * static_cast<double>(logits_.size());
  }

  cudaError_t Launch(cudaStream_t stream) override { return LaunchSample(args_, stream); }

  // By sorting, as engine/sampler.cc does it.
  void Twin(std::map<std::string, Doubles>& expected) const override {
    const auto vocab = static_cast<size_t>(shape_.vocab);
    for (size_t row = 0; row < params_.size(); ++row) {
      const SamplingRow& params = params_[row];
      const Doubles logits(logits_.begin() + static_cast<std::ptrdiff_t>(row * vocab),
                           logits_.begin() + static_cast<std::ptrdiff_t>((row + 1) * vocab));
      const double largest = *std::max_element(logits.begin(), logits.end());
      double sum = 0;
      for (const double logit : logits) sum += std::exp(logit - largest);

      std::vector<size_t> order(vocab);  // most likely first, then by id
      std::iota(order.begin(), order.end(), size_t{0});
      std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
      });
      size_t token = order[0];
      if (params.temperature >= 1e-5) token = Draw(params, logits, order);
      expected["tokens"].push_back(static_cast<double>(token));
      expected["log_probabilities"].push_back(logits[token] - largest - std::log(sum));
    }
  }

 private:
  static size_t Draw(const SamplingRow& params, const Doubles& logits,
                     const std::vector<size_t>& order) {
    Doubles p(logits.size());
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] = std::exp((logits[i] - logits[order[0]]) / params.temperature);
      if (p[i] < params.min_p) p[i] = 0;
    }
    const auto top_k = static_cast<size_t>(std::max<int64_t>(params.top_k, 0));
    if (top_k > 0 && top_k < p.size()) {
      const double least = p[order[top_k - 1]];
      for (double& one : p) one = one < least ? 0 : one;
    }
    const double share = params.top_p * std::accumulate(p.begin(), p.end(), 0.0);
    double above = 0;
    for (const size_t token : order) {
      const double mine = p[token];
      if (params.top_p < 1 && above >= share) p[token] = 0;
      above += mine;
    }
    const std::array<uint32_t, 4> bits =
        Philox4x32({static_cast<uint32_t>(params.seed), static_cast<uint32_t>(params.seed >> 32)},
                   {static_cast<uint32_t>(params.position),
                    static_cast<uint32_t>(params.position >> 32), 0, 0});
    const uint64_t draw = (uint64_t{bits[0]} << 32 | bits[1]) >> 11;
    const double target =
        (static_cast<double>(draw) + 0.5) * 0x1p-53 * std::accumulate(p.begin(), p.end(), 0.0);
    double passed = 0;
    size_t token = order[0];
    for (size_t i = 0; i < p.size() && passed <= target; ++i) {
      if (p[i] <= 0) continue;
      passed += p[i];
      token = i;
    }
    return token;
  }

  SampleShape shape_;
  std::vector<float> logits_;
  std::vector<SamplingRow> params_;
  SampleArgs args_ = {};
};

}  // namespace

std::vector<Case> LogitsCases() {
  std::vector<Case> cases;
  for (const SampleShape& s : {SampleShape{2, 1},
                               {5, 37},
                               {4, 300, true},
                               {2, 1000},
                               {1, 32000},
                               {64, 32000},
                               {256, 32000}}) {
    AddCase<Sample>(cases, "sample", Name({s.rows, s.vocab}), s, s.vocab < 32000);
  }
  return cases;
}

}  // namespace nibble::cuda::bench
