#pragma once

#include <cstdint>

#include "base/math.h"
#include "tensor/dtype.h"

namespace nibble {

// Default number of tokens of a KV block: the keys of a head that a pass of attention reads are
// then contiguous, which is fastest.
inline constexpr int64_t kKvBlockSize = 64;

// Blocks that hold `num_tokens` tokens.
constexpr int64_t BlocksFor(int64_t num_tokens, int64_t block_size = kKvBlockSize) {
  return CeilDiv(num_tokens, block_size);
}

struct KvShape {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t block_size = kKvBlockSize;  // tokens
  DType dtype = DType::kF32;          // of keys and values: kF32, kBF16 or kI8
};

// The keys and values of all layers, in blocks of `block_size` tokens that all layers number alike.
// How they lie in memory is the backend's secret. Which block belongs to which sequence is the
// caller's business.
class KvPages {
 public:
  KvPages(const KvShape& shape, int64_t num_blocks) : shape_(shape), num_blocks_(num_blocks) {}
  virtual ~KvPages() = default;
  KvPages(const KvPages&) = delete;
  KvPages& operator=(const KvPages&) = delete;

  const KvShape& shape() const { return shape_; }
  int64_t num_blocks() const { return num_blocks_; }
  virtual int64_t size_bytes() const = 0;

 private:
  KvShape shape_;
  int64_t num_blocks_;
};

}  // namespace nibble
