#include "quantize/passes/slot_selection.h"

#include <algorithm>
#include <numeric>

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
    slots.expert_starts[expert] = static_cast<int32_t>(slots.slot_tokens.size());
    if (expert < first || expert >= last) continue;
    const size_t begin = slots.slot_tokens.size();
    if (selection.all_tokens) {
      slots.slot_tokens.resize(begin + Size(slots.num_tokens));
      std::iota(slots.slot_tokens.begin() + static_cast<int64_t>(begin), slots.slot_tokens.end(),
                0);
      continue;
    }
    slots.slot_tokens.insert(slots.slot_tokens.end(), routed.begin() + routed_starts[expert],
                             routed.begin() + routed_starts[Size(expert) + 1]);
    const std::vector<int32_t>& extra = selection.extra_tokens[expert];
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

}  // namespace nibble
