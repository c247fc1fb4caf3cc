#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/sampling.h"

namespace nibble {

// Chooses one token from `logits` [vocab], which is used as scratch. The draw is keyed by (seed,
// output position) and by nothing else, so it does not depend on batch mates or on the division
// into steps. Order: min_tokens mask, repetition, frequency and presence penalties, then greedy
// (ties: the lowest id) or temperature, min_p, top_k (ties at the k-th kept), top_p, draw. Not
// thread-safe: keeps scratch.
class Sampler {
 public:
  Sampled Sample(const SamplingRow& row, std::span<float> logits);

 private:
  void Penalise(const SamplingRow& row, std::span<float> logits);
  void Filter(const SamplingParams& params);

  std::vector<double> probabilities_;  // relative to the largest, which is 1
  std::vector<int32_t> order_;
  std::vector<int32_t> counts_;  // of each token in the output; all zero between calls
  std::vector<std::pair<int32_t, float>> raw_of_penalised_;
};

}  // namespace nibble
