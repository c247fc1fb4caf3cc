#pragma once

#include "backend/cpu/kernels/simd.h"

// Arrays of 16 in plain C++: the fallback for other architectures, and the slow twin of the others.
// The fused multiply-add is a library call if the compiler's target has no instruction for it.
namespace nibble::cpu {

struct Portable {
  struct F {
    float lane[16];
  };
  struct I {
    int32_t lane[16];
  };
  struct B {
    uint8_t byte[64];
  };
  static constexpr int FloatVectors(int) { return 1; }
  static constexpr int IntVectors(int) { return 1; }
  static constexpr int DirectVectors(int) { return 1; }
  static constexpr int kFloatTokens = 2;
  static constexpr int kIntTokens = 2;
  static constexpr int kDirectTokens = 2;
  static constexpr int kRoofFloatSums = 4;
  static constexpr int kRoofIntSums = 4;
  static constexpr bool kPairedDot = false;
  static constexpr bool kScales = false;

  template <typename Op>
  static NIBBLE_INLINE F MapF(Op op) {
    F result;
    for (int i = 0; i < 16; ++i) result.lane[i] = op(i);
    return result;
  }
  template <typename Op>
  static NIBBLE_INLINE I MapI(Op op) {
    I result;
    for (int i = 0; i < 16; ++i) result.lane[i] = op(i);
    return result;
  }
  static NIBBLE_INLINE uint32_t Bits(float value) { return __builtin_bit_cast(uint32_t, value); }
  static NIBBLE_INLINE float FromBits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
  // Integer arithmetic wraps, as it does in registers.
  static NIBBLE_INLINE int32_t Wrap(int64_t value) { return static_cast<int32_t>(value); }

  static NIBBLE_INLINE F Zero() { return Set(0.0f); }
  static NIBBLE_INLINE F Set(float value) {
    return MapF([&](int) { return value; });
  }
  static NIBBLE_INLINE F Load(const float* p) {
    return MapF([&](int i) { return p[i]; });
  }
  static NIBBLE_INLINE F LoadBf16(const uint16_t* p) {
    return MapF([&](int i) { return FromBits(static_cast<uint32_t>(p[i]) << 16); });
  }
  static NIBBLE_INLINE F LoadFirst(const float* p, int64_t count) {
    return MapF([&](int i) { return i < count ? p[i] : 0.0f; });
  }
  static NIBBLE_INLINE F LoadFirstBf16(const uint16_t* p, int64_t count) {
    return MapF(
        [&](int i) { return i < count ? FromBits(static_cast<uint32_t>(p[i]) << 16) : 0.0f; });
  }
  static NIBBLE_INLINE void Store(float* p, F a) {
    for (int i = 0; i < 16; ++i) p[i] = a.lane[i];
  }
  static NIBBLE_INLINE void StoreFirst(float* p, F a, int64_t count) {
    for (int i = 0; i < 16 && i < count; ++i) p[i] = a.lane[i];
  }
  static NIBBLE_INLINE F Add(F a, F b) {
    return MapF([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static NIBBLE_INLINE F Mul(F a, F b) {
    return MapF([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static NIBBLE_INLINE F Div(F a, F b) {
    return MapF([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static NIBBLE_INLINE F Fma(F a, F b, F c) {
    return MapF([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
  }
  static NIBBLE_INLINE F FnMa(F a, F b, F c) {  // c - a * b
    return MapF([&](int i) { return __builtin_fmaf(-a.lane[i], b.lane[i], c.lane[i]); });
  }
  // The second one if either is NaN.
  static NIBBLE_INLINE F Max(F a, F b) {
    return MapF([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static NIBBLE_INLINE F Min(F a, F b) {
    return MapF([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  // Lane i of a where first <= i < last, of b elsewhere.
  static NIBBLE_INLINE F Select(F a, F b, int64_t first, int64_t last) {
    return MapF([&](int i) { return first <= i && i < last ? a.lane[i] : b.lane[i]; });
  }
  // The tree 16 -> 8 -> 4 -> 2 -> 1 that adds the upper half to the lower.
  static NIBBLE_INLINE float Sum(F a) {
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.lane[i] += a.lane[i + half];
    }
    return a.lane[0];
  }
  static NIBBLE_INLINE float MaxLane(F a) {
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) {
        a.lane[i] = a.lane[i] > a.lane[i + half] ? a.lane[i] : a.lane[i + half];
      }
    }
    return a.lane[0];
  }

  static NIBBLE_INLINE I ZeroI() { return SetI(0); }
  static NIBBLE_INLINE I SetI(int32_t value) {
    return MapI([&](int) { return value; });
  }
  static NIBBLE_INLINE I AddI(I a, I b) {
    return MapI([&](int i) { return Wrap(int64_t{a.lane[i]} + b.lane[i]); });
  }
  static NIBBLE_INLINE I MulI(I a, I b) {
    return MapI([&](int i) { return Wrap(int64_t{a.lane[i]} * b.lane[i]); });
  }
  static NIBBLE_INLINE I MaxI(I a, I b) {
    return MapI([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static NIBBLE_INLINE I AndI(I a, I b) {
    return MapI([&](int i) { return a.lane[i] & b.lane[i]; });
  }
  template <int kBits>
  static NIBBLE_INLINE I ShiftLeft(I a) {
    return MapI(
        [&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) << kBits); });
  }
  template <int kBits>
  static NIBBLE_INLINE I ShiftRight(I a) {  // keeps the sign
    return MapI([&](int i) { return a.lane[i] >> kBits; });
  }
  static NIBBLE_INLINE int32_t SumI(I a) {
    int64_t sum = 0;
    for (const int32_t lane : a.lane) sum += lane;
    return Wrap(sum);
  }
  static NIBBLE_INLINE int32_t MaxLaneI(I a) {
    int32_t largest = a.lane[0];
    for (const int32_t lane : a.lane) largest = lane > largest ? lane : largest;
    return largest;
  }
  static NIBBLE_INLINE I Magnitude(F a) {  // the bits of |a|: ordered like the values, NaN on top
    return MapI([&](int i) { return static_cast<int32_t>(Bits(a.lane[i]) & 0x7fffffffu); });
  }
  // To the nearest, ties to even; |a| < 2^31.
  static NIBBLE_INLINE I Round(F a) {
    return MapI([&](int i) { return static_cast<int32_t>(__builtin_lrintf(a.lane[i])); });
  }
  static NIBBLE_INLINE F ToFloat(I a) {
    return MapF([&](int i) { return static_cast<float>(a.lane[i]); });
  }
  static NIBBLE_INLINE F AsFloat(I a) {
    return MapF([&](int i) { return FromBits(static_cast<uint32_t>(a.lane[i])); });
  }
  static NIBBLE_INLINE void StoreBytes(int8_t* p, I a) {  // lanes in [-128, 127]
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.lane[i]);
  }
  static NIBBLE_INLINE I LoadBytesUnsigned(const uint8_t* p) {
    return MapI([&](int i) { return static_cast<int32_t>(p[i]); });
  }

  static NIBBLE_INLINE I LoadInts(const uint8_t* p) {
    I result;
    __builtin_memcpy(result.lane, p, sizeof(result.lane));
    return result;
  }
  static NIBBLE_INLINE B LoadB(const uint8_t* p) {
    B result;
    for (int i = 0; i < 64; ++i) result.byte[i] = p[i];
    return result;
  }
  static NIBBLE_INLINE void StoreB(uint8_t* p, B a) {
    for (int i = 0; i < 64; ++i) p[i] = a.byte[i];
  }
  static NIBBLE_INLINE B LowNibbles(B a) {
    for (uint8_t& byte : a.byte) byte &= 0x0f;
    return a;
  }
  static NIBBLE_INLINE B HighNibbles(B a) {
    for (uint8_t& byte : a.byte) byte = static_cast<uint8_t>(byte >> 4);
    return a;
  }
  // Lane i += Σ_j byte j of lane i in w * signed byte j of x.
  static NIBBLE_INLINE I Dot(I sum, B w, const int8_t* x) {
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 4; ++j) {
        sum.lane[i] += static_cast<int32_t>(w.byte[4 * i + j]) * static_cast<int32_t>(x[j]);
      }
    }
    return sum;
  }
  // Dot(Dot(sum, w0, x), w1, x + 4), for w of at most 15.
  static NIBBLE_INLINE I DotPair(I sum, B w0, B w1, const int8_t* x) {
    return Dot(Dot(sum, w0, x), w1, x + 4);
  }
  // Dot for any bytes, not only nibbles.
  static NIBBLE_INLINE I DotBytes(I sum, B w, const int8_t* x) { return Dot(sum, w, x); }
};

}  // namespace nibble::cpu
