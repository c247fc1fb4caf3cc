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

// Tokens a KV block, unless somebody asks for another size: all the keys of a head that attention
// takes at once then lie together, which is what memory is fastest at.
inline constexpr int64_t kKvBlockSize = 64;

// Blocks that hold `num_tokens` tokens.
constexpr int64_t BlocksFor(int64_t num_tokens, int64_t block_size = kKvBlockSize) {
  return (num_tokens + block_size - 1) / block_size;
}

// The KV pages of one layer. A KV block holds block_size tokens: a part for the keys of each head,
// then one for the values of each head. Inside a part, for n = 4 / (bytes of an element):
//
//   keys           [row_dim / n][slots][n]   n elements of a key are a word of four bytes, and
//   words
//                                            of neighbouring tokens lie together: a dot product is
//                                            taken of many keys at once, a token a lane
//   values         [slots][row_dim]
//   values, kI8    [slots / 4][row_dim][4]   four tokens to a word
//   scales, kI8    [slots] float             behind keys and values alike
//
// With kI8 an element is the byte 128 + code, code = round(x / scale) with scale = max |x| / 127
// over a token's key (or value) of a head, ties to even; its value is code * scale. A key or value
// that is not finite has a scale of NaN. head_dim is at most kMaxInt8HeadDim, so that dot products
// with 16-bit numbers fit 32 bits. What is beyond head_dim or block_size is padding: it is
// never written and may hold anything. Borrows.
struct KvPages {
  static constexpr int64_t kMaxInt8HeadDim = 512;

  void* data = nullptr;
  DType dtype = DType::kF32;  // kF32, kBF16 or kI8
  int64_t num_blocks = 0;
  int64_t block_size = kKvBlockSize;  // tokens a block
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;

  int64_t element_bytes() const { return DTypeSize(dtype); }
  int64_t row_dim() const;  // head_dim, padded
  int64_t slots() const;    // block_size, padded
  int64_t part_bytes() const;
  int64_t bytes_per_block() const { return 2 * num_kv_heads * part_bytes(); }

  // Where a part begins, in bytes from the start of its block.
  int64_t key_part(int64_t head) const { return head * part_bytes(); }
  int64_t value_part(int64_t head) const { return (num_kv_heads + head) * part_bytes(); }
  // Where an element, or a scale of kI8, lies in its part, in bytes.
  int64_t key_offset(int64_t slot, int64_t d) const;
  int64_t value_offset(int64_t slot, int64_t d) const;
  int64_t scale_offset(int64_t slot) const;
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
