#pragma once

#include "backend/cpu/kernels/simd_avx2.h"

// AVX2 with byte dot products of its own (AVX-VNNI): recent machines without AVX-512.
namespace nibble::cpu {

struct AvxVnni : Avx2 {
  static constexpr int kRoofIntSums = 6;
  static constexpr bool kPairedDot = false;

  static NIBBLE_INLINE I Dot(I sum, B w, const int8_t* x) {
    const __m256i bytes = Four(x);
    return {_mm256_dpbusd_avx_epi32(sum.lo, w.lo, bytes),
            _mm256_dpbusd_avx_epi32(sum.hi, w.hi, bytes)};
  }
  static NIBBLE_INLINE I DotPair(I sum, B w0, B w1, const int8_t* x) {
    return Dot(Dot(sum, w0, x), w1, x + 4);
  }
};

}  // namespace nibble::cpu
