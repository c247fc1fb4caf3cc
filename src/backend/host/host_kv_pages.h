#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/buffer.h"
#include "backend/kv_pages.h"

namespace nibble {

// The pages of one layer as backends of the host keep them. A KV block holds block_size tokens: a
// part for the keys of each head, then one for the values of each head. Inside a part, for
// n = 4 / (bytes of an element):
//
//   keys         [row_dim / n][slots][n]   n elements of a key are a word of four bytes, and words
//                                          of neighbouring tokens are adjacent, so that one
//                                          vector operation serves many keys, one token per lane
//   values       [slots][row_dim]
//   values, kI8  [slots / 4][row_dim][4]   four tokens to a word
//   scales, kI8  [slots] float             behind keys and values alike
//
// With kI8 an element is the byte 128 + code, code = round(x / scale) with scale = max |x| / 127
// over a token's key (or value) of a head, ties to even; its value is code * scale. A non-finite
// key or value has a scale of NaN. head_dim is at most kMaxInt8HeadDim, so that dot products with
// 16-bit numbers fit 32 bits. Elements after head_dim or block_size are padding: they are never
// written and may hold anything. Borrows.
struct HostKvLayer {
  static constexpr int64_t kMaxInt8HeadDim = 512;

  void* data = nullptr;
  DType dtype = DType::kF32;  // kF32, kBF16 or kI8
  int64_t num_blocks = 0;
  int64_t block_size = kKvBlockSize;  // tokens
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;

  int64_t element_bytes() const { return DTypeSize(dtype); }
  int64_t row_dim() const;  // head_dim, padded
  int64_t slots() const;    // block_size, padded
  int64_t part_bytes() const;
  int64_t bytes_per_block() const { return 2 * num_kv_heads * part_bytes(); }

  // Offset of a part, in bytes from the start of its block.
  int64_t key_part(int64_t head) const { return head * part_bytes(); }
  int64_t value_part(int64_t head) const { return (num_kv_heads + head) * part_bytes(); }
  // Offset of an element, or of a scale of kI8, in bytes from the start of its part.
  int64_t key_offset(int64_t slot, int64_t d) const;
  int64_t value_offset(int64_t slot, int64_t d) const;
  int64_t scale_offset(int64_t slot) const;
};

// The pages of all layers, one layer after another in one buffer.
class HostKvPages final : public KvPages {
 public:
  // Throws kUnsupported for heads that are too large for kI8, kResourceExhausted.
  HostKvPages(const KvShape& shape, int64_t num_blocks);

  static int64_t BlockBytes(const KvShape& shape);  // of one block in all layers; throws likewise

  HostKvLayer layer(int64_t index) const;
  int64_t size_bytes() const override { return buffer_.size_bytes(); }
  void* data() const { return buffer_.data(); }

 private:
  static HostKvLayer LayerOf(const KvShape& shape, int64_t num_blocks);

  HostKvLayer first_;  // the pages of layer 0
  Buffer buffer_;
};

}  // namespace nibble
