#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace nibble {

// Owns the KV pages of all layers: num_layers arrays one after another, each laid out as KvPages
// documents. Which block belongs to whom is the business of the caller. The backend must outlive
// it.
class KvCache {
 public:
  // dtype is kF32, kBF16 or kI8. Throws kResourceExhausted, and kUnsupported for heads that are too
  // large for kI8.
  KvCache(Backend& backend, int64_t num_layers, int64_t num_blocks, int64_t block_size,
          int64_t num_kv_heads, int64_t head_dim, DType dtype);

  KvPages layer(int64_t index) const;
  int64_t num_blocks() const { return first_.num_blocks; }
  int64_t block_size() const { return first_.block_size; }
  int64_t size_bytes() const { return buffer_.size_bytes(); }

 private:
  int64_t num_layers_;
  KvPages first_;  // the pages of layer 0
  Buffer buffer_;
};

}  // namespace nibble
