#pragma once

#include <immintrin.h>

#include "backend/cpu/kernels/simd.h"

// AVX-512 F, BW, DQ, VL and VNNI: one register a vector.
namespace nibble::cpu {

struct Avx512 {
  using F = __m512;
  using I = __m512i;
  using B = __m512i;
  static constexpr int FloatVectors(int) { return 4; }
  static constexpr int IntVectors(int) { return 4; }
  static constexpr int DirectVectors(int) { return 4; }
  static constexpr int kFloatTokens = 6;
  static constexpr int kIntTokens = 6;
  static constexpr int kDirectTokens = 3;
  static constexpr int kRoofFloatSums = 12;
  static constexpr int kRoofIntSums = 12;
  static constexpr bool kPairedDot = false;
  static constexpr bool kScales = true;

  static NIBBLE_INLINE __mmask16 First(int64_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffff : (1 << (count < 0 ? 0 : count)) - 1);
  }

  static NIBBLE_INLINE F Zero() { return _mm512_setzero_ps(); }
  static NIBBLE_INLINE F Set(float value) { return _mm512_set1_ps(value); }
  static NIBBLE_INLINE F Load(const float* p) { return _mm512_loadu_ps(p); }
  static NIBBLE_INLINE F Widen(__m256i bf16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
  }
  static NIBBLE_INLINE F LoadBf16(const uint16_t* p) {
    return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static NIBBLE_INLINE F LoadFirst(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(First(count), p);
  }
  static NIBBLE_INLINE F LoadFirstBf16(const uint16_t* p, int64_t count) {
    return Widen(_mm256_maskz_loadu_epi16(First(count), p));
  }
  static NIBBLE_INLINE void Store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static NIBBLE_INLINE void StoreFirst(float* p, F a, int64_t count) {
    _mm512_mask_storeu_ps(p, First(count), a);
  }
  static NIBBLE_INLINE F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static NIBBLE_INLINE F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static NIBBLE_INLINE F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static NIBBLE_INLINE F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static NIBBLE_INLINE F FnMa(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static NIBBLE_INLINE F TimesPowerOfTwo(F p, I n, int32_t least) {
    const __mmask16 small = _mm512_cmplt_epi32_mask(n, SetI(least));
    return _mm512_scalef_ps(p, _mm512_mask_mov_ps(ToFloat(n), small, Set(-__builtin_huge_valf())));
  }
  static NIBBLE_INLINE F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static NIBBLE_INLINE F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static NIBBLE_INLINE F Select(F a, F b, int64_t first, int64_t last) {
    return _mm512_mask_mov_ps(b, static_cast<__mmask16>(First(last) & ~First(first)), a);
  }
  static NIBBLE_INLINE float Sum(F a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static NIBBLE_INLINE float MaxLane(F a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  static NIBBLE_INLINE I ZeroI() { return _mm512_setzero_si512(); }
  static NIBBLE_INLINE I SetI(int32_t value) { return _mm512_set1_epi32(value); }
  static NIBBLE_INLINE I AddI(I a, I b) { return _mm512_add_epi32(a, b); }
  static NIBBLE_INLINE I MulI(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static NIBBLE_INLINE I MaxI(I a, I b) { return _mm512_max_epi32(a, b); }
  static NIBBLE_INLINE I AndI(I a, I b) { return _mm512_and_si512(a, b); }
  template <int kBits>
  static NIBBLE_INLINE I ShiftLeft(I a) {
    return _mm512_slli_epi32(a, kBits);
  }
  template <int kBits>
  static NIBBLE_INLINE I ShiftRight(I a) {
    return _mm512_srai_epi32(a, kBits);
  }
  static NIBBLE_INLINE int32_t SumI(I a) { return _mm512_reduce_add_epi32(a); }
  static NIBBLE_INLINE int32_t MaxLaneI(I a) { return _mm512_reduce_max_epi32(a); }
  static NIBBLE_INLINE I Magnitude(F a) {
    return _mm512_and_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff));
  }
  static NIBBLE_INLINE I Round(F a) { return _mm512_cvtps_epi32(a); }
  static NIBBLE_INLINE F ToFloat(I a) { return _mm512_cvtepi32_ps(a); }
  static NIBBLE_INLINE F AsFloat(I a) { return _mm512_castsi512_ps(a); }
  static NIBBLE_INLINE void StoreBytes(int8_t* p, I a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  }
  static NIBBLE_INLINE I LoadBytesUnsigned(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  static NIBBLE_INLINE I LoadInts(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static NIBBLE_INLINE B LoadB(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static NIBBLE_INLINE void StoreB(uint8_t* p, B a) { _mm512_storeu_si512(p, a); }
  static NIBBLE_INLINE B LowNibbles(B a) { return _mm512_and_si512(a, _mm512_set1_epi8(0x0f)); }
  static NIBBLE_INLINE B HighNibbles(B a) {
    return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(0x0f));
  }
  static NIBBLE_INLINE I Four(const int8_t* x) {
    int32_t bytes;
    __builtin_memcpy(&bytes, x, 4);
    return _mm512_set1_epi32(bytes);
  }
  // _mm512_dpbusd_epi32, written out: GCC 12 copies and spills the sums of the intrinsic.
  static NIBBLE_INLINE I Dot(I sum, B w, const int8_t* x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(Four(x)));
    return sum;
  }
  static NIBBLE_INLINE I DotPair(I sum, B w0, B w1, const int8_t* x) {
    return Dot(Dot(sum, w0, x), w1, x + 4);
  }
  // Dot for any bytes, not only nibbles.
  static NIBBLE_INLINE I DotBytes(I sum, B w, const int8_t* x) { return Dot(sum, w, x); }
};

}  // namespace nibble::cpu
