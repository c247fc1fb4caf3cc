#include "backend/host/host_kv_pages.h"

#include <string>

#include "backend/host/host_memory.h"
#include "base/check.h"
#include "base/math.h"
#include "nibble/error.h"

namespace nibble {

int64_t HostKvLayer::row_dim() const {
  return RoundUp(head_dim, dtype == DType::kI8 ? 16 : 4 / element_bytes());
}

int64_t HostKvLayer::slots() const {
  return dtype == DType::kI8 ? RoundUp(block_size, 4) : block_size;
}

int64_t HostKvLayer::part_bytes() const {
  const int64_t scale_bytes = dtype == DType::kI8 ? int64_t{sizeof(float)} : 0;
  return slots() * (row_dim() * element_bytes() + scale_bytes);
}

int64_t HostKvLayer::key_offset(int64_t slot, int64_t d) const {
  const int64_t in_word = 4 / element_bytes();
  return (d / in_word * slots() + slot) * 4 + d % in_word * element_bytes();
}

int64_t HostKvLayer::value_offset(int64_t slot, int64_t d) const {
  if (dtype == DType::kI8) return (slot / 4 * row_dim() + d) * 4 + slot % 4;
  return (slot * row_dim() + d) * element_bytes();
}

int64_t HostKvLayer::scale_offset(int64_t slot) const {
  return slots() * row_dim() + slot * int64_t{sizeof(float)};
}

HostKvPages::HostKvPages(const KvShape& shape, int64_t num_blocks)
    : KvPages(shape, num_blocks), first_(LayerOf(shape, num_blocks)) {
  NIBBLE_CHECK(shape.num_layers > 0 && num_blocks > 0 && shape.block_size > 0);
  buffer_ = HostBuffer(num_blocks * BlockBytes(shape));
  first_.data = buffer_.data();
}

HostKvLayer HostKvPages::LayerOf(const KvShape& shape, int64_t num_blocks) {
  NIBBLE_CHECK(shape.dtype == DType::kF32 || shape.dtype == DType::kBF16 ||
               shape.dtype == DType::kI8);
  if (shape.dtype == DType::kI8 && shape.head_dim > HostKvLayer::kMaxInt8HeadDim) {
    throw Error(ErrorCode::kUnsupported, "an int8 KV cache takes heads of at most " +
                                             std::to_string(HostKvLayer::kMaxInt8HeadDim) +
                                             ", the model's are " + std::to_string(shape.head_dim) +
                                             "; choose bfloat16");
  }
  return {.data = nullptr,
          .dtype = shape.dtype,
          .num_blocks = num_blocks,
          .block_size = shape.block_size,
          .num_kv_heads = shape.num_kv_heads,
          .head_dim = shape.head_dim};
}

int64_t HostKvPages::BlockBytes(const KvShape& shape) {
  return shape.num_layers * LayerOf(shape, 1).bytes_per_block();
}

HostKvLayer HostKvPages::layer(int64_t index) const {
  NIBBLE_CHECK(index >= 0 && index < shape().num_layers);
  HostKvLayer layer = first_;
  layer.data =
      static_cast<std::byte*>(first_.data) + index * num_blocks() * first_.bytes_per_block();
  return layer;
}

}  // namespace nibble
