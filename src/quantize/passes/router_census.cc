#include "quantize/passes/router_census.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace nibble {
namespace {

size_t Size(int64_t value) { return static_cast<size_t>(value); }

}  // namespace

RouterCensus::RouterCensus(const RouterShape& shape, int64_t num_tokens, Keep keep)
    : num_tokens_(num_tokens),
      num_experts_(shape.num_experts),
      top_k_(shape.top_k),
      counts_(Size(num_experts_)) {
  if (keep.choices) {
    experts_.resize(num_tokens * top_k_);
    weights_.resize(experts_.size());
  }
  if (keep.probabilities) probabilities_.resize(num_tokens * num_experts_);
}

int64_t RouterCensus::SizeBytes(const RouterShape& shape, int64_t num_tokens, Keep keep) {
  const int64_t choice = int64_t{sizeof(int32_t)} + int64_t{sizeof(float)};
  return num_tokens * ((keep.choices ? shape.top_k * choice : 0) +
                       (keep.probabilities ? shape.num_experts * int64_t{sizeof(float)} : 0));
}

void RouterCensus::Add(const RoutingTable& routing, int64_t first_token) {
  for (const int32_t expert : routing.experts) ++counts_[expert];
  if (!experts_.empty()) {
    std::ranges::copy(routing.experts, experts_.begin() + first_token * top_k_);
    std::ranges::copy(routing.weights, weights_.begin() + first_token * top_k_);
  }
  if (probabilities_.empty()) return;
  for (int64_t token = 0; token < routing.num_tokens; ++token) {
    const float* const logits = routing.logits.data() + token * num_experts_;
    float* const out = probabilities_.data() + (first_token + token) * num_experts_;
    const float highest = *std::max_element(logits, logits + num_experts_);
    float sum = 0;
    for (int64_t e = 0; e < num_experts_; ++e) sum += out[e] = std::exp(logits[e] - highest);
    for (int64_t e = 0; e < num_experts_; ++e) out[e] /= sum;
    for (int64_t k = 0; k < top_k_; ++k) {
      out[routing.experts[token * top_k_ + k]] = -1;
    }
  }
}

void RouterCensus::Choices(int64_t first_token, int64_t count, RoutingTable& routing) const {
  const int64_t first = first_token * top_k_;
  const int64_t last = first + count * top_k_;
  NIBBLE_CHECK(0 <= first && first <= last && Size(last) <= experts_.size());
  routing.num_tokens = count;
  routing.num_experts = num_experts_;
  routing.top_k = top_k_;
  routing.experts.assign(experts_.begin() + first, experts_.begin() + last);
  routing.weights.assign(weights_.begin() + first, weights_.begin() + last);
  routing.logits.clear();
  routing.expert_starts.clear();
  routing.slot_tokens.clear();
  routing.slot_weights.clear();
}

std::vector<std::vector<int32_t>> RouterCensus::TopUp(int64_t target) const {
  NIBBLE_CHECK(!probabilities_.empty() || num_tokens_ == 0);
  std::vector<std::vector<int32_t>> extra(num_experts_);
  for (int64_t expert = 0; expert < num_experts_; ++expert) {
    const int64_t routed = counts_[expert];
    const int64_t lacking = std::min(target - routed, num_tokens_ - routed);
    if (lacking <= 0) continue;
    std::vector<int32_t> tokens(num_tokens_);
    std::iota(tokens.begin(), tokens.end(), 0);
    const auto probability = [&](int32_t token) {
      return probabilities_[token * num_experts_ + expert];
    };
    std::nth_element(
        tokens.begin(), tokens.begin() + (lacking - 1), tokens.end(), [&](int32_t a, int32_t b) {
          return probability(a) != probability(b) ? probability(a) > probability(b) : a < b;
        });
    tokens.resize(lacking);
    std::sort(tokens.begin(), tokens.end());
    extra[expert] = std::move(tokens);
  }
  return extra;
}

}  // namespace nibble
