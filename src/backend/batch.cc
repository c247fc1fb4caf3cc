#include "backend/batch.h"

#include "base/check.h"

namespace nibble {
namespace {

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

int64_t KvPages::row_dim() const {
  return RoundUp(head_dim, dtype == DType::kI8 ? 16 : 4 / element_bytes());
}

int64_t KvPages::slots() const { return dtype == DType::kI8 ? RoundUp(block_size, 4) : block_size; }

int64_t KvPages::part_bytes() const {
  const int64_t scale_bytes = dtype == DType::kI8 ? int64_t{sizeof(float)} : 0;
  return slots() * (row_dim() * element_bytes() + scale_bytes);
}

int64_t KvPages::key_offset(int64_t slot, int64_t d) const {
  const int64_t in_word = 4 / element_bytes();
  return (d / in_word * slots() + slot) * 4 + d % in_word * element_bytes();
}

int64_t KvPages::value_offset(int64_t slot, int64_t d) const {
  if (dtype == DType::kI8) return (slot / 4 * row_dim() + d) * 4 + slot % 4;
  return (slot * row_dim() + d) * element_bytes();
}

int64_t KvPages::scale_offset(int64_t slot) const {
  return slots() * row_dim() + slot * int64_t{sizeof(float)};
}

void Routing::GroupByExpert(int64_t first, int64_t last) {
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

  slot_tokens.resize(static_cast<size_t>(expert_starts.back()));
  slot_weights.resize(slot_tokens.size());
  for (size_t choice = 0; choice < num_choices; ++choice) {
    if (!wanted(experts[choice])) continue;
    const auto slot = static_cast<size_t>(expert_starts[static_cast<size_t>(experts[choice])]++);
    slot_tokens[slot] = static_cast<int32_t>(choice / static_cast<size_t>(top_k));
    slot_weights[slot] = weights[choice];
  }
  // Filling moved every start to the start of its successor.
  for (size_t e = expert_starts.size() - 1; e > 0; --e) expert_starts[e] = expert_starts[e - 1];
  expert_starts[0] = 0;
}

}  // namespace nibble
