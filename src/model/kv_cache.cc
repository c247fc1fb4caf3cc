#include "model/kv_cache.h"

#include <string>

#include "base/check.h"
#include "nibble/error.h"

namespace nibble {
namespace {

int64_t LayerBytes(const KvPages& pages) { return pages.num_blocks * pages.bytes_per_block(); }

}  // namespace

KvCache::KvCache(Backend& backend, int64_t num_layers, int64_t num_blocks, int64_t block_size,
                 int64_t num_kv_heads, int64_t head_dim, DType dtype)
    : num_layers_(num_layers) {
  NIBBLE_CHECK(num_layers > 0 && num_blocks > 0 && block_size > 0);
  NIBBLE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kI8);
  if (dtype == DType::kI8 && head_dim > KvPages::kMaxInt8HeadDim) {
    throw Error(ErrorCode::kUnsupported, "an int8 KV cache takes heads of at most " +
                                             std::to_string(KvPages::kMaxInt8HeadDim) +
                                             ", the model's are " + std::to_string(head_dim) +
                                             "; choose bfloat16");
  }
  first_ = {.data = nullptr,
            .dtype = dtype,
            .num_blocks = num_blocks,
            .block_size = block_size,
            .num_kv_heads = num_kv_heads,
            .head_dim = head_dim};
  buffer_ = backend.Allocate(num_layers * LayerBytes(first_));
  first_.data = buffer_.data();
}

KvPages KvCache::layer(int64_t index) const {
  NIBBLE_CHECK(index >= 0 && index < num_layers_);
  KvPages pages = first_;
  pages.data = static_cast<std::byte*>(first_.data) + index * LayerBytes(first_);
  return pages;
}

}  // namespace nibble
