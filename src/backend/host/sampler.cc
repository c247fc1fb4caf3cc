#include "backend/host/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "backend/host/log_softmax.h"
#include "base/check.h"
#include "base/random.h"

namespace nibble {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Uniform in (0, 1): 53 bits of one Philox block.
double UniformDraw(uint64_t seed, uint64_t position) {
  const std::array<uint32_t, 4> block =
      Philox4x32({static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
                 {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0});
  const uint64_t bits = (uint64_t{block[0]} << 32 | block[1]) >> 11;
  return (static_cast<double>(bits) + 0.5) * 0x1p-53;
}

}  // namespace

// Repetition, frequency and presence penalties on the tokens that occurred.
void Sampler::Penalise(const SamplingRow& row, std::span<float> logits) {
  const SamplingParams& params = *row.params;
  raw_of_penalised_.clear();
  if (params.repetition_penalty == 1 && params.presence_penalty == 0 &&
      params.frequency_penalty == 0) {
    return;
  }
  counts_.resize(logits.size(), 0);
  const auto see = [&](int32_t id) { raw_of_penalised_.emplace_back(id, logits[id]); };
  for (const int32_t id : row.output) {
    if (counts_[id]++ == 0) see(id);
  }
  for (const int32_t id : row.prompt) {
    if (counts_[id] != 0) continue;
    counts_[id] = -1;  // seen, but not in the output
    see(id);
  }
  for (const auto& [id, raw] : raw_of_penalised_) {
    const int32_t count = std::max(std::exchange(counts_[id], 0), 0);
    double value = static_cast<double>(raw);
    value = value > 0 ? value / params.repetition_penalty : value * params.repetition_penalty;
    value -= params.frequency_penalty * count;
    if (count > 0) value -= params.presence_penalty;
    logits[id] = static_cast<float>(value);
  }
}

// Zeroes the probabilities that min_p, top_k and top_p drop, in this order.
void Sampler::Filter(const SamplingParams& params) {
  for (double& p : probabilities_) {
    if (p < params.min_p) p = 0;  // the largest is 1
  }
  const size_t vocab = probabilities_.size();
  const bool filter_k = params.top_k > 0 && params.top_k < static_cast<int64_t>(vocab);
  if (!filter_k && params.top_p >= 1) return;

  order_.resize(vocab);
  std::iota(order_.begin(), order_.end(), 0);
  const auto more_likely = [this](int32_t a, int32_t b) {
    const double pa = probabilities_[a];
    const double pb = probabilities_[b];
    return pa != pb ? pa > pb : a < b;
  };
  if (filter_k) {
    const auto kth = order_.begin() + (params.top_k - 1);
    std::nth_element(order_.begin(), kth, order_.end(), more_likely);
    const double threshold = probabilities_[*kth];
    for (double& p : probabilities_) {
      if (p < threshold) p = 0;
    }
  }
  if (params.top_p >= 1) return;

  // Sorts only as far as necessary: a few hundred tokens usually reach top_p, whatever the
  // vocabulary.
  const double total = std::accumulate(probabilities_.begin(), probabilities_.end(), 0.0);
  double above = 0;  // probability of the tokens that are more likely than the next one
  size_t kept = 0;
  size_t sorted = 0;
  while (kept < vocab && above < params.top_p * total) {
    if (kept == sorted) {
      const auto from = order_.begin() + static_cast<std::ptrdiff_t>(sorted);
      sorted = std::min(vocab, std::max<size_t>(256, sorted * 8));
      std::partial_sort(from, order_.begin() + static_cast<std::ptrdiff_t>(sorted), order_.end(),
                        more_likely);
    }
    above += probabilities_[order_[kept++]];
  }
  for (size_t i = kept; i < vocab; ++i) probabilities_[order_[i]] = 0;
}

Sampled Sampler::Sample(const SamplingRow& row, std::span<float> logits) {
  NIBBLE_CHECK(!logits.empty());
  const SamplingParams& params = *row.params;
  const double log_sum = LogSumExp(logits);  // of the untouched model
  if (!std::isfinite(log_sum)) return {.log_sum = log_sum};
  if (static_cast<int64_t>(row.output.size()) < params.min_tokens) {
    for (const int32_t id : row.end_ids) logits[id] = kMasked;
    for (const int32_t id : params.stop_token_ids) logits[id] = kMasked;
  }
  Penalise(row, logits);
  const auto chosen = [&](int32_t token) {
    const auto penalised = std::find_if(raw_of_penalised_.begin(), raw_of_penalised_.end(),
                                        [&](const auto& pair) { return pair.first == token; });
    const float raw = penalised != raw_of_penalised_.end() ? penalised->second : logits[token];
    return Sampled{token, static_cast<double>(raw) - log_sum, log_sum};
  };

  const int32_t best = ArgMax(logits);
  const double largest = static_cast<double>(logits[best]);
  if (params.greedy() || !std::isfinite(largest)) return chosen(best);  // all may be masked

  probabilities_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    probabilities_[i] = std::exp((static_cast<double>(logits[i]) - largest) / params.temperature);
  }
  Filter(params);
  const double total = std::accumulate(probabilities_.begin(), probabilities_.end(), 0.0);
  const double target = UniformDraw(row.seed, row.output.size()) * total;
  double passed = 0;
  int32_t token = best;
  for (size_t i = 0; i < probabilities_.size() && passed <= target; ++i) {
    if (probabilities_[i] <= 0) continue;
    passed += probabilities_[i];
    token = static_cast<int32_t>(i);
  }
  return chosen(token);
}

}  // namespace nibble
