#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/random.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

void CheckRange(bool ok, const char* field, double value, const char* allowed) {
  if (ok) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}: expected {}, found {}", field, allowed, value));
}

int32_t ArgMax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Uniform in (0, 1): 53 bits of one Philox block.
double UniformDraw(uint64_t seed, uint64_t position) {
  const std::array<uint32_t, 4> block =
      Philox4x32({static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
                 {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0});
  const uint64_t bits = (uint64_t{block[0]} << 32 | block[1]) >> 11;
  return (static_cast<double>(bits) + 0.5) * 0x1p-53;
}

}  // namespace

void CheckSamplingParams(const SamplingParams& p, int64_t vocab_size) {
  CheckRange(std::isfinite(p.temperature) && p.temperature >= 0, "temperature", p.temperature,
             "a number of at least 0");
  CheckRange(p.top_p > 0 && p.top_p <= 1, "top_p", p.top_p, "a number above 0 and at most 1");
  CheckRange(p.top_k >= -1, "top_k", static_cast<double>(p.top_k),
             "0 or -1 (off), or a positive integer");
  CheckRange(p.min_p >= 0 && p.min_p <= 1, "min_p", p.min_p, "a number from 0 to 1");
  CheckRange(std::isfinite(p.repetition_penalty) && p.repetition_penalty > 0, "repetition_penalty",
             p.repetition_penalty, "a number above 0");
  CheckRange(p.presence_penalty >= -2 && p.presence_penalty <= 2, "presence_penalty",
             p.presence_penalty, "a number from -2 to 2");
  CheckRange(p.frequency_penalty >= -2 && p.frequency_penalty <= 2, "frequency_penalty",
             p.frequency_penalty, "a number from -2 to 2");
  CheckRange(p.max_tokens >= 1, "max_tokens", static_cast<double>(p.max_tokens), "at least 1");
  CheckRange(p.min_tokens >= 0 && p.min_tokens <= p.max_tokens, "min_tokens",
             static_cast<double>(p.min_tokens), "a number from 0 to max_tokens");
  for (const std::string& stop : p.stop) {
    if (stop.empty())
      throw Error(ErrorCode::kInvalidArgument, "stop: a stop string must not be empty");
  }
  for (const int32_t id : p.stop_token_ids) {
    CheckRange(id >= 0 && id < vocab_size, "stop_token_ids", id, "ids below the vocabulary size");
  }
}

double LogSumExp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

Sampled Sampler::Sample(const SamplingParams& params, const SamplingState& state,
                        std::span<float> logits) {
  NIBBLE_CHECK(!logits.empty());
  const size_t vocab = logits.size();
  // The reported log-probability is the untouched model's: remember what turns a raw logit into it.
  const double log_sum = LogSumExp(logits);
  const auto log_probability = [&](float raw) { return static_cast<double>(raw) - log_sum; };

  if (static_cast<int64_t>(state.output.size()) < params.min_tokens) {
    for (const int32_t id : state.end_ids) logits[static_cast<size_t>(id)] = kMasked;
    for (const int32_t id : params.stop_token_ids) logits[static_cast<size_t>(id)] = kMasked;
  }

  const bool penalised = params.repetition_penalty != 1 || params.presence_penalty != 0 ||
                         params.frequency_penalty != 0;
  std::vector<std::pair<int32_t, float>> raw_of_penalised;
  if (penalised) {
    counts_.resize(vocab, 0);
    // Each seen token once: -1 marks one that only the prompt holds.
    std::vector<int32_t> seen;
    for (const int32_t id : state.output) {
      if (counts_[static_cast<size_t>(id)]++ == 0) seen.push_back(id);
    }
    for (const int32_t id : state.prompt) {
      if (counts_[static_cast<size_t>(id)] == 0) {
        counts_[static_cast<size_t>(id)] = -1;
        seen.push_back(id);
      }
    }
    for (const int32_t id : seen) {
      float& logit = logits[static_cast<size_t>(id)];
      raw_of_penalised.emplace_back(id, logit);
      const int32_t count = std::max(counts_[static_cast<size_t>(id)], 0);
      double value = logit;
      value = value > 0 ? value / params.repetition_penalty : value * params.repetition_penalty;
      value -= params.frequency_penalty * count;
      if (count > 0) value -= params.presence_penalty;
      logit = static_cast<float>(value);
      counts_[static_cast<size_t>(id)] = 0;
    }
  }
  const auto chosen = [&](int32_t token) {
    float raw = logits[static_cast<size_t>(token)];
    for (const auto& [id, before] : raw_of_penalised) {
      if (id == token) raw = before;
    }
    return Sampled{token, log_probability(raw)};
  };

  if (params.greedy()) return chosen(ArgMax(logits));

  // Softmax at the given temperature, relative to the largest logit (whose weight is 1).
  const float largest = *std::max_element(logits.begin(), logits.end());
  if (!std::isfinite(largest)) return chosen(ArgMax(logits));
  probabilities_.resize(vocab);
  for (size_t i = 0; i < vocab; ++i) {
    probabilities_[i] = std::exp((static_cast<double>(logits[i]) - largest) / params.temperature);
  }
  if (params.min_p > 0) {
    for (double& p : probabilities_) {
      if (p < params.min_p) p = 0;
    }
  }
  const bool filter_k = params.top_k > 0 && params.top_k < static_cast<int64_t>(vocab);
  if (filter_k || params.top_p < 1) {
    order_.resize(vocab);
    std::iota(order_.begin(), order_.end(), 0);
    const auto more_likely = [&](int32_t a, int32_t b) {
      const double pa = probabilities_[static_cast<size_t>(a)];
      const double pb = probabilities_[static_cast<size_t>(b)];
      return pa != pb ? pa > pb : a < b;
    };
    if (filter_k) {
      const auto kth = order_.begin() + (params.top_k - 1);
      std::nth_element(order_.begin(), kth, order_.end(), more_likely);
      const double threshold = probabilities_[static_cast<size_t>(*kth)];
      for (double& p : probabilities_) {
        if (p < threshold) p = 0;
      }
    }
    if (params.top_p < 1) {
      std::sort(order_.begin(), order_.end(), more_likely);
      const double total = std::accumulate(probabilities_.begin(), probabilities_.end(), 0.0);
      double above = 0;  // probability of the tokens that are more likely than this one
      for (const int32_t id : order_) {
        double& p = probabilities_[static_cast<size_t>(id)];
        if (above >= params.top_p * total) {
          p = 0;
        } else {
          above += p;
        }
      }
    }
  }

  const double total = std::accumulate(probabilities_.begin(), probabilities_.end(), 0.0);
  const double target = UniformDraw(state.seed, state.output.size()) * total;
  double passed = 0;
  int32_t token = ArgMax(logits);
  for (size_t i = 0; i < vocab; ++i) {
    if (probabilities_[i] <= 0) continue;
    passed += probabilities_[i];
    token = static_cast<int32_t>(i);
    if (passed > target) break;
  }
  return chosen(token);
}

}  // namespace nibble
