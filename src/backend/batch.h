#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

// One forward step over several sequences as flat arrays. Sequence s owns the query rows
// [starts[s], starts[s + 1]) and after the step has context_lengths[s] tokens in its KV blocks, the
// query tokens being the last of them.
struct Batch {
  std::vector<int32_t> tokens;           // [num_tokens]
  std::vector<int32_t> positions;        // [num_tokens]
  std::vector<int32_t> starts;           // [num_sequences + 1]
  std::vector<int32_t> context_lengths;  // [num_sequences]
  std::vector<int32_t> block_table;      // [num_sequences, max_blocks]: KV blocks, oldest first
  int32_t max_blocks = 0;
  std::vector<int32_t> logit_rows;  // query rows whose logits are wanted, increasing

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_sequences() const { return static_cast<int64_t>(context_lengths.size()); }
  std::span<const int32_t> blocks(int64_t sequence) const {
    return std::span(block_table).subspan(sequence * max_blocks, max_blocks);
  }
};

}  // namespace nibble
