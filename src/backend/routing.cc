#include "backend/routing.h"

#include <numeric>

#include "base/check.h"

namespace nibble {

void RoutingTable::GroupByExpert(int64_t first, int64_t last) {
  NIBBLE_CHECK(0 <= first && first <= last && last <= num_experts);
  const size_t num_choices = static_cast<size_t>(num_tokens * top_k);
  NIBBLE_CHECK(experts.size() == num_choices && weights.size() == num_choices);
  const auto wanted = [&](int32_t expert) { return first <= expert && expert < last; };

  // A counting sort by expert; walking the tokens in order keeps them increasing inside an expert.
  expert_starts.assign(static_cast<size_t>(num_experts) + 1, 0);
  for (const int32_t expert : experts) {
    NIBBLE_CHECK(0 <= expert && expert < num_experts);
    if (wanted(expert)) ++expert_starts[static_cast<size_t>(expert) + 1];
  }
  for (size_t e = 1; e < expert_starts.size(); ++e) expert_starts[e] += expert_starts[e - 1];

  slot_tokens.resize(expert_starts.back());
  slot_weights.resize(slot_tokens.size());
  for (size_t choice = 0; choice < num_choices; ++choice) {
    if (!wanted(experts[choice])) continue;
    const auto slot = static_cast<size_t>(expert_starts[experts[choice]]++);
    slot_tokens[slot] = static_cast<int32_t>(choice / static_cast<size_t>(top_k));
    slot_weights[slot] = weights[choice];
  }
  // Filling has advanced every start to that of its successor.
  for (size_t e = expert_starts.size() - 1; e > 0; --e) expert_starts[e] = expert_starts[e - 1];
  expert_starts[0] = 0;
}

void RoutingTable::SelectAll(int64_t tokens) {
  num_tokens = tokens;
  num_experts = top_k = 1;
  const size_t size = static_cast<size_t>(tokens);
  experts.assign(size, 0);
  weights.assign(size, 1.0f);
  logits.clear();
  expert_starts.assign({0, static_cast<int32_t>(tokens)});
  slot_tokens.resize(size);
  std::iota(slot_tokens.begin(), slot_tokens.end(), 0);
  slot_weights.assign(size, 1.0f);
}

}  // namespace nibble
