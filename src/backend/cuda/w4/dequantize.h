#pragma once

#include <cstdint>

#include "backend/cuda/host_device.h"

// From 4-bit codes to 16-bit floats without a conversion instruction: a code or-ed into the lowest
// bits of a power of two whose unit in the last place is one is that power plus the code, and one
// subtraction, exact, leaves code - 8. A W4T word (w4_layout.h) has register j's two codes at bits
// 4j and 16 + 4j.
//
// `Isa` (emulator/warp.h, warp_ptx.cuh) has the instructions; U is its 32-bit value: a register, or
// one for each lane.
namespace nibble::cuda {

inline constexpr uint32_t kLowNibbles = 0x000f000fu;
inline constexpr uint32_t kHighNibbles = 0x00f000f0u;

// BF16 has 7 bits of mantissa: 128 + code is exact, 128 + 16 * code is not.
inline constexpr uint32_t kBf16Pair128 = 0x43004300u;
inline constexpr uint32_t kBf16Pair136 = 0x43084308u;

// FP16 has 10: 1024 + code, and 1024 + 16 * code, which saves the shift of every other register.
inline constexpr uint32_t kF16Pair1024 = 0x64006400u;
inline constexpr uint32_t kF16Pair1032 = 0x64086408u;
inline constexpr uint32_t kF16PairSixteenth = 0x2c002c00u;
inline constexpr uint32_t kF16PairMinus72 = 0xd480d480u;

// Register j (0..3) of the fragment in BF16: two weights, exactly code - 8, the lower input in the
// low half.
template <class Isa, class U>
NIBBLE_DEVICE U DequantizeBf16(const U& word, int j) {
  return Isa::SubtractBf16(Isa::AndOr(word >> 4 * j, kLowNibbles, kBf16Pair128), kBf16Pair136);
}

// The same in FP16.
template <class Isa, class U>
NIBBLE_DEVICE U DequantizeF16(const U& word, int j) {
  const U shifted = j < 2 ? word : word >> 8;
  if (j % 2 == 0) {
    return Isa::SubtractF16(Isa::AndOr(shifted, kLowNibbles, kF16Pair1024), kF16Pair1032);
  }
  return Isa::MultiplyAddF16(Isa::AndOr(shifted, kHighNibbles, kF16Pair1024), kF16PairSixteenth,
                             kF16PairMinus72);
}

}  // namespace nibble::cuda
