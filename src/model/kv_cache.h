#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace nibble {

// Owns the KV pages of all layers: num_layers arrays, each laid out as KvPages documents.
class KvCache {
 public:
  KvCache(Backend& backend, int64_t num_layers, int64_t num_blocks, int64_t block_size,
          int64_t num_kv_heads, int64_t head_dim, DType dtype);

  KvPages layer(int64_t index);
  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_size() const { return block_size_; }
  int64_t size_bytes() const { return buffer_.size_bytes(); }

 private:
  Buffer buffer_;
  int64_t num_layers_;
  int64_t num_blocks_;
  KvPages first_;
  int64_t block_size_;
};

}  // namespace nibble
