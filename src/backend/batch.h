#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/dtype.h"

namespace nibble {

// One forward step over several sequences as flat arrays. Sequence s owns the query rows
// [starts[s], starts[s + 1]) and after the step has context_lengths[s] tokens in its KV pages, the
// query tokens being the last of them.
struct Batch {
  std::vector<int32_t> tokens;           // [num_tokens]
  std::vector<int32_t> positions;        // [num_tokens]
  std::vector<int32_t> starts;           // [num_sequences + 1]
  std::vector<int32_t> context_lengths;  // [num_sequences]
  std::vector<int32_t> block_table;  // [num_sequences, max_blocks]: KV block of each run of tokens
  int32_t max_blocks = 0;
  std::vector<int32_t> logit_rows;  // query rows whose logits are wanted, increasing

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_sequences() const { return static_cast<int64_t>(context_lengths.size()); }
  std::span<const int32_t> blocks(int64_t sequence) const {
    return std::span(block_table)
        .subspan(static_cast<size_t>(sequence * max_blocks), static_cast<size_t>(max_blocks));
  }
};

// The KV pages of one layer. Element (block, kind, head, slot, d), kind 0 = key and 1 = value, lies
// at
// (((block * 2 + kind) * num_kv_heads + head) * block_size + slot) * head_dim + d. Borrows.
struct KvPages {
  void* data = nullptr;
  DType dtype = DType::kF32;  // kF32 or kBF16
  int64_t num_blocks = 0;
  int64_t block_size = 16;  // tokens a block
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;

  int64_t elements_per_block() const { return 2 * num_kv_heads * block_size * head_dim; }
};

// Which experts run on which tokens. Plain host data: the router op fills it, and a caller may
// build one itself (calibration runs chosen experts over chosen tokens).
//
// A slot is one (token, expert) pair; slots are grouped by expert, tokens increasing inside an
// expert.
struct Routing {
  int64_t num_tokens = 0;
  int64_t num_experts = 0;
  int64_t top_k = 0;
  std::vector<int32_t> experts;  // [num_tokens, top_k], best first; a tie goes to the lower index
  std::vector<float> weights;    // [num_tokens, top_k], summing to 1 per token
  std::vector<float> logits;     // [num_tokens, num_experts]
  std::vector<int32_t>
      expert_starts;  // [num_experts + 1]: expert e has slots [starts[e], starts[e + 1])
  std::vector<int32_t> slot_tokens;  // [num_slots]
  std::vector<float> slot_weights;   // [num_slots]

  int64_t num_slots() const { return static_cast<int64_t>(slot_tokens.size()); }

  // Fills the slot arrays from experts and weights, for the experts in [first, last) only.
  void GroupByExpert(int64_t first, int64_t last);
};

}  // namespace nibble
