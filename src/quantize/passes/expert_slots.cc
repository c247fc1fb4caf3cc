#include "quantize/passes/expert_slots.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace nibble {
namespace {

size_t Size(int64_t value) { return static_cast<size_t>(value); }

}  // namespace

void SelectSlots(const RoutingTable& routing, int64_t first_token, const ExpertSelection& selection,
                 int64_t first, int64_t last, RoutingTable& slots) {
  slots = routing;
  slots.GroupByExpert(first, last);
  if (!selection.all_tokens && selection.extra_tokens.empty()) return;

  const std::vector<int32_t> routed_starts = slots.expert_starts;
  const std::vector<int32_t> routed = slots.slot_tokens;
  slots.slot_tokens.clear();
  for (int64_t expert = 0; expert < slots.num_experts; ++expert) {
    slots.expert_starts[Size(expert)] = static_cast<int32_t>(slots.slot_tokens.size());
    if (expert < first || expert >= last) continue;
    const size_t begin = slots.slot_tokens.size();
    if (selection.all_tokens) {
      slots.slot_tokens.resize(begin + Size(slots.num_tokens));
      std::iota(slots.slot_tokens.begin() + static_cast<int64_t>(begin), slots.slot_tokens.end(),
                0);
      continue;
    }
    slots.slot_tokens.insert(slots.slot_tokens.end(), routed.begin() + routed_starts[Size(expert)],
                             routed.begin() + routed_starts[Size(expert) + 1]);
    const std::vector<int32_t>& extra = selection.extra_tokens[Size(expert)];
    const auto from = std::lower_bound(extra.begin(), extra.end(), first_token);
    const auto to = std::lower_bound(from, extra.end(), first_token + slots.num_tokens);
    for (auto token = from; token != to; ++token) {
      slots.slot_tokens.push_back(static_cast<int32_t>(*token - first_token));
    }
    std::sort(slots.slot_tokens.begin() + static_cast<int64_t>(begin), slots.slot_tokens.end());
  }
  slots.expert_starts.back() = static_cast<int32_t>(slots.slot_tokens.size());
  slots.slot_weights.assign(slots.slot_tokens.size(), 0.0f);  // statistics are not weighted
}

RouterCensus::RouterCensus(int64_t num_tokens, int64_t num_experts, bool keep_probabilities)
    : num_tokens_(num_tokens), num_experts_(num_experts), counts_(Size(num_experts)) {
  if (keep_probabilities) probabilities_.resize(Size(num_tokens * num_experts));
}

void RouterCensus::Add(const RoutingTable& routing, int64_t first_token) {
  for (const int32_t expert : routing.experts) ++counts_[Size(expert)];
  if (probabilities_.empty()) return;
  for (int64_t token = 0; token < routing.num_tokens; ++token) {
    const float* const logits = routing.logits.data() + token * num_experts_;
    float* const out = probabilities_.data() + (first_token + token) * num_experts_;
    const float highest = *std::max_element(logits, logits + num_experts_);
    float sum = 0;
    for (int64_t e = 0; e < num_experts_; ++e) sum += out[e] = std::exp(logits[e] - highest);
    for (int64_t e = 0; e < num_experts_; ++e) out[e] /= sum;
    for (int64_t k = 0; k < routing.top_k; ++k) {
      out[routing.experts[Size(token * routing.top_k + k)]] = -1;
    }
  }
}

std::vector<std::vector<int32_t>> RouterCensus::TopUp(int64_t target) const {
  NIBBLE_CHECK(!probabilities_.empty() || num_tokens_ == 0);
  std::vector<std::vector<int32_t>> extra(Size(num_experts_));
  for (int64_t expert = 0; expert < num_experts_; ++expert) {
    const int64_t routed = counts_[Size(expert)];
    const int64_t lacking = std::min(target - routed, num_tokens_ - routed);
    if (lacking <= 0) continue;
    std::vector<int32_t> tokens(Size(num_tokens_));
    std::iota(tokens.begin(), tokens.end(), 0);
    const auto probability = [&](int32_t token) {
      return probabilities_[Size(token * num_experts_ + expert)];
    };
    std::nth_element(
        tokens.begin(), tokens.begin() + (lacking - 1), tokens.end(), [&](int32_t a, int32_t b) {
          return probability(a) != probability(b) ? probability(a) > probability(b) : a < b;
        });
    tokens.resize(Size(lacking));
    std::sort(tokens.begin(), tokens.end());
    extra[Size(expert)] = std::move(tokens);
  }
  return extra;
}

}  // namespace nibble
