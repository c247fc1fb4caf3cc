#include "backend/cpu/kv_store.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "base/float16.h"

namespace nibble::cpu {
namespace {

// Turns a row into bytes, 128 + code; returns the scale.
float ToBytes(const float* x, int64_t count, uint8_t* bytes) {
  float largest = 0;
  bool finite = true;
  for (int64_t d = 0; d < count; ++d) {
    const float magnitude = std::abs(x[d]);
    finite &= magnitude <= std::numeric_limits<float>::max();
    largest = magnitude > largest ? magnitude : largest;
  }
  // A scale whose reciprocal overflows counts as zero.
  const float scale = largest / 127.0f;
  if (!finite || scale < 1e-37f) {
    std::memset(bytes, 128, static_cast<size_t>(count));
    return finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  // Adding 1.5 * 2^23 rounds to a whole number, ties to even, and leaves it in the low bits.
  constexpr float kRound = 12582912.0f;
  for (int64_t d = 0; d < count; ++d) {
    const float code = (x[d] / scale + kRound) - kRound;
    bytes[d] = static_cast<uint8_t>(static_cast<int32_t>(code) + 128);
  }
  return scale;
}

}  // namespace

void StoreKeyValue(const HostKvLayer& kv, int64_t block, int64_t slot, const float* k,
                   const float* v) {
  std::byte* const base = static_cast<std::byte*>(kv.data) + block * kv.bytes_per_block();
  const int64_t dim = kv.head_dim;
  const int64_t word_step = kv.slots() * 4;
  for (int64_t head = 0; head < kv.num_kv_heads; ++head, k += dim, v += dim) {
    std::byte* const key = base + kv.key_part(head) + kv.key_offset(slot, 0);
    std::byte* const value = base + kv.value_part(head) + kv.value_offset(slot, 0);
    switch (kv.dtype) {
      case DType::kF32:
        for (int64_t d = 0; d < dim; ++d) std::memcpy(key + d * word_step, k + d, 4);
        std::memcpy(value, v, static_cast<size_t>(dim) * sizeof(float));
        break;
      case DType::kBF16:
        for (int64_t d = 0; d < dim; d += 2) {
          const BFloat16 word[2] = {BFloat16(k[d]), BFloat16(d + 1 < dim ? k[d + 1] : 0.0f)};
          std::memcpy(key + d / 2 * word_step, word, 4);
        }
        for (int64_t d = 0; d < dim; ++d) {
          const BFloat16 element(v[d]);
          std::memcpy(value + d * 2, &element, 2);
        }
        break;
      default: {
        NIBBLE_CHECK(kv.dtype == DType::kI8 && dim <= HostKvLayer::kMaxInt8HeadDim);
        uint8_t bytes[HostKvLayer::kMaxInt8HeadDim] = {};
        const float key_scale = ToBytes(k, dim, bytes);
        for (int64_t d = 0; d < dim; d += 4) std::memcpy(key + d / 4 * word_step, bytes + d, 4);
        const float value_scale = ToBytes(v, dim, bytes);
        for (int64_t d = 0; d < dim; ++d) value[4 * d] = static_cast<std::byte>(bytes[d]);
        std::memcpy(base + kv.key_part(head) + kv.scale_offset(slot), &key_scale, 4);
        std::memcpy(base + kv.value_part(head) + kv.scale_offset(slot), &value_scale, 4);
      }
    }
  }
}

}  // namespace nibble::cpu
