#pragma once

#include <bit>
#include <cstdint>

// 16-bit storage formats. Arithmetic is always done in float; these types only hold bits.
namespace nibble {

// bfloat16: the upper half of a float. Rounds to nearest, ties to even; NaN stays NaN.
class BFloat16 {
 public:
  BFloat16() = default;
  explicit constexpr BFloat16(float value) : bits_(Round(value)) {}
  static constexpr BFloat16 FromBits(uint16_t bits) {
    BFloat16 result;
    result.bits_ = bits;
    return result;
  }
  constexpr uint16_t bits() const { return bits_; }
  explicit constexpr operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits_) << 16);
  }

 private:
  static constexpr uint16_t Round(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
      return static_cast<uint16_t>((bits >> 16) | 0x40u);  // quiet the NaN, keep its sign
    }
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }

  uint16_t bits_ = 0;
};

// IEEE binary16. Rounds to nearest, ties to even; overflow becomes infinity; subnormals are exact.
class Float16 {
 public:
  Float16() = default;
  explicit constexpr Float16(float value) : bits_(Round(value)) {}
  static constexpr Float16 FromBits(uint16_t bits) {
    Float16 result;
    result.bits_ = bits;
    return result;
  }
  constexpr uint16_t bits() const { return bits_; }
  explicit constexpr operator float() const { return Widen(bits_); }

 private:
  static constexpr uint16_t Round(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 2^16
    if (magnitude < 0x38800000u) {  // below 2^-14: subnormal, in units of 2^-24
      if (magnitude < 0x33000000u) return static_cast<uint16_t>(sign);
      const uint32_t exponent = magnitude >> 23;
      const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
      const uint32_t shift = 126u - exponent;
      const uint32_t half = 1u << (shift - 1);
      const uint32_t odd = (mantissa >> shift) & 1u;
      return static_cast<uint16_t>(sign | ((mantissa + half - 1u + odd) >> shift));
    }
    const uint32_t rebased = magnitude - (112u << 23);
    return static_cast<uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
  }

  static constexpr float Widen(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fu;
    const uint32_t mantissa = half & 0x3ffu;
    if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0) {
      const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
      return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
    }
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  }

  uint16_t bits_ = 0;
};

}  // namespace nibble
