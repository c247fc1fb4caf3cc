#include "model/batch_builder.h"

#include <algorithm>
#include <utility>

namespace nibble {

void BatchBuilder::Add(std::span<const int32_t> tokens, int64_t first_position,
                       std::span<const int32_t> blocks, int64_t first_logit) {
  if (batch_.starts.empty()) batch_.starts.push_back(0);
  const int64_t first_row = num_tokens();
  const int64_t count = static_cast<int64_t>(tokens.size());
  batch_.tokens.insert(batch_.tokens.end(), tokens.begin(), tokens.end());
  for (int64_t i = 0; i < count; ++i) {
    batch_.positions.push_back(static_cast<int32_t>(first_position + i));
  }
  for (int64_t i = first_logit; i < count; ++i) {
    batch_.logit_rows.push_back(static_cast<int32_t>(first_row + i));
  }
  batch_.starts.push_back(static_cast<int32_t>(num_tokens()));
  batch_.context_lengths.push_back(static_cast<int32_t>(first_position + count));
  blocks_.emplace_back(blocks.begin(), blocks.end());
}

Batch BatchBuilder::Take() {
  size_t widest = 0;
  for (const auto& blocks : blocks_) widest = std::max(widest, blocks.size());
  batch_.max_blocks = static_cast<int32_t>(widest);
  for (auto& blocks : blocks_) {
    blocks.resize(widest, 0);  // the padding is never looked at
    batch_.block_table.insert(batch_.block_table.end(), blocks.begin(), blocks.end());
  }
  blocks_.clear();
  return std::exchange(batch_, Batch{});
}

}  // namespace nibble
