#pragma once

#include <immintrin.h>

#include "backend/cpu/kernels/simd.h"

// AVX2 and FMA: a vector of 16 is two registers, the lower eight lanes in `lo`.
namespace nibble::cpu {

struct Avx2 {
  struct F {
    __m256 lo, hi;
  };
  struct I {
    __m256i lo, hi;
  };
  using B = I;
  static constexpr int FloatVectors(int tokens) { return tokens == 1 ? 4 : tokens == 2 ? 2 : 1; }
  static constexpr int IntVectors(int tokens) { return tokens == 1 ? 2 : 1; }
  static constexpr int DirectVectors(int tokens) { return tokens == 1 ? 2 : 1; }
  static constexpr int kFloatTokens = 6;
  static constexpr int kIntTokens = 4;
  static constexpr int kDirectTokens = 2;
  static constexpr int kRoofFloatSums = 6;
  static constexpr int kRoofIntSums = 4;
  static constexpr bool kPairedDot = true;
  static constexpr bool kScales = false;

  static NIBBLE_INLINE __m256i Mask8(int64_t count) {  // lanes below count
    const int32_t n = static_cast<int32_t>(count < 0 ? 0 : count > 16 ? 16 : count);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  static NIBBLE_INLINE F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static NIBBLE_INLINE F Set(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static NIBBLE_INLINE F Load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
  }
  static NIBBLE_INLINE __m256 Widen(__m128i bf16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
  }
  static NIBBLE_INLINE F LoadBf16(const uint16_t* p) {
    return {Widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            Widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static NIBBLE_INLINE F LoadFirst(const float* p, int64_t count) {
    return {_mm256_maskload_ps(p, Mask8(count)), _mm256_maskload_ps(p + 8, Mask8(count - 8))};
  }
  static NIBBLE_INLINE F LoadFirstBf16(const uint16_t* p, int64_t count) {
    alignas(32) uint16_t padded[16] = {};
    for (int64_t i = 0; i < (count < 16 ? count : 16); ++i) padded[i] = p[i];
    return LoadBf16(padded);
  }
  static NIBBLE_INLINE void Store(float* p, F a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
  }
  static NIBBLE_INLINE void StoreFirst(float* p, F a, int64_t count) {
    _mm256_maskstore_ps(p, Mask8(count), a.lo);
    _mm256_maskstore_ps(p + 8, Mask8(count - 8), a.hi);
  }
  static NIBBLE_INLINE F Add(F a, F b) {
    return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
  }
  static NIBBLE_INLINE F Mul(F a, F b) {
    return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
  }
  static NIBBLE_INLINE F Div(F a, F b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
  }
  static NIBBLE_INLINE F Fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static NIBBLE_INLINE F FnMa(F a, F b, F c) {
    return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
  }
  static NIBBLE_INLINE F Max(F a, F b) {
    return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
  }
  static NIBBLE_INLINE F Min(F a, F b) {
    return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
  }
  static NIBBLE_INLINE F Select(F a, F b, int64_t first, int64_t last) {
    const auto half = [&](__m256 x, __m256 y, int64_t offset) {
      const __m256i mask = _mm256_andnot_si256(Mask8(first - offset), Mask8(last - offset));
      return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(mask));
    };
    return {half(a.lo, b.lo, 0), half(a.hi, b.hi, 8)};
  }
  static NIBBLE_INLINE float Sum(F a) {
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static NIBBLE_INLINE float MaxLane(F a) {
    const __m256 eight = _mm256_max_ps(a.lo, a.hi);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  static NIBBLE_INLINE I ZeroI() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static NIBBLE_INLINE I SetI(int32_t value) {
    return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
  }
  static NIBBLE_INLINE I AddI(I a, I b) {
    return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
  }
  static NIBBLE_INLINE I MulI(I a, I b) {
    return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
  }
  static NIBBLE_INLINE I MaxI(I a, I b) {
    return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
  }
  static NIBBLE_INLINE I AndI(I a, I b) {
    return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
  }
  template <int kBits>
  static NIBBLE_INLINE I ShiftLeft(I a) {
    return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
  }
  template <int kBits>
  static NIBBLE_INLINE I ShiftRight(I a) {
    return {_mm256_srai_epi32(a.lo, kBits), _mm256_srai_epi32(a.hi, kBits)};
  }
  static NIBBLE_INLINE int32_t SumI(I a) {
    const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
  }
  static NIBBLE_INLINE int32_t MaxLaneI(I a) {
    const __m256i eight = _mm256_max_epi32(a.lo, a.hi);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
  }
  static NIBBLE_INLINE I Magnitude(F a) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return {_mm256_and_si256(_mm256_castps_si256(a.lo), mask),
            _mm256_and_si256(_mm256_castps_si256(a.hi), mask)};
  }
  static NIBBLE_INLINE I Round(F a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
  static NIBBLE_INLINE F ToFloat(I a) {
    return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
  }
  static NIBBLE_INLINE F AsFloat(I a) {
    return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
  }
  static NIBBLE_INLINE void StoreBytes(int8_t* p, I a) {
    // Packing works inside 128-bit halves: the words come out as lo0 hi0 lo1 hi1.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }
  static NIBBLE_INLINE I LoadBytesUnsigned(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
  }

  static NIBBLE_INLINE I LoadInts(const uint8_t* p) { return LoadB(p); }
  static NIBBLE_INLINE B LoadB(const uint8_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
  }
  static NIBBLE_INLINE void StoreB(uint8_t* p, B a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), a.hi);
  }
  static NIBBLE_INLINE B LowNibbles(B a) {
    const __m256i mask = _mm256_set1_epi8(0x0f);
    return {_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
  }
  static NIBBLE_INLINE B HighNibbles(B a) {
    return LowNibbles({_mm256_srli_epi16(a.lo, 4), _mm256_srli_epi16(a.hi, 4)});
  }
  static NIBBLE_INLINE __m256i Four(const int8_t* x) {
    int32_t bytes;
    __builtin_memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
  }
  // Nibbles are at most 15, so a pair of products fits 16 bits, and so do the sums of eight pairs.
  static NIBBLE_INLINE I Dot(I sum, B w, const int8_t* x) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i bytes = Four(x);
    const auto half = [&](__m256i total, __m256i weights) {
      const __m256i words = _mm256_maddubs_epi16(weights, bytes);
      return _mm256_add_epi32(total, _mm256_madd_epi16(words, ones));
    };
    return {half(sum.lo, w.lo), half(sum.hi, w.hi)};
  }
  static NIBBLE_INLINE I DotPair(I sum, B w0, B w1, const int8_t* x) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i x0 = Four(x);
    const __m256i x1 = Four(x + 4);
    const auto half = [&](__m256i total, __m256i a, __m256i b) {
      const __m256i words =
          _mm256_add_epi16(_mm256_maddubs_epi16(a, x0), _mm256_maddubs_epi16(b, x1));
      return _mm256_add_epi32(total, _mm256_madd_epi16(words, ones));
    };
    return {half(sum.lo, w0.lo, w1.lo), half(sum.hi, w0.hi, w1.hi)};
  }

  // The same for any bytes: as words, since pairs of products may not fit 16 bits.
  static NIBBLE_INLINE I DotBytes(I sum, B w, const int8_t* x) {
    const __m256i both = Four(x);
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(both, 8), 8);
    const __m256i odd = _mm256_srai_epi16(both, 8);
    const auto half = [&](__m256i total, __m256i bytes) {
      const __m256i low = _mm256_and_si256(bytes, _mm256_set1_epi16(0x00ff));
      const __m256i high = _mm256_srli_epi16(bytes, 8);
      return _mm256_add_epi32(
          total, _mm256_add_epi32(_mm256_madd_epi16(low, even), _mm256_madd_epi16(high, odd)));
    };
    return {half(sum.lo, w.lo), half(sum.hi, w.hi)};
  }
};

}  // namespace nibble::cpu
