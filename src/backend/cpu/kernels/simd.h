#pragma once

#include <cstdint>

#include "base/math.h"

// The interface of an instruction set for the kernel templates (*-inl.h): a struct of static
// functions, such as Avx512, over
//
//   F   16 floats                 I   16 int32                B   64 bytes, as 16 lanes of 4
//
// plus how many registers it may fill:
//
//   kFloatTokens   activation rows held at once by the dense kernel, at most
//   kIntTokens     the same for the packed kernel
//   kDirectTokens  the same where it unpacks codes in registers
//   FloatVectors, IntVectors, DirectVectors (tokens)
//                  vectors of 16 weight rows that go with so many activation rows: 1, 2 or 4
//   kRoofFloatSums, kRoofIntSums
//                  independent sums that keep the arithmetic units busy
//   kPairedDot     whether two byte products are cheaper together (DotPair) than one by one (Dot)
//   kScales        whether there is an instruction for TimesPowerOfTwo
//
// Each kernel is a template over that struct, so its instances for different instruction sets are
// different functions: the linker can never mix them up. Own wrappers and not a SIMD library,
// because the kernels promise the same bits on every machine: 16 lanes everywhere and every fused
// operation and reduction order spelled out, and because the byte dot products are not in such
// libraries.
#if defined(__clang__)
#define NIBBLE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define NIBBLE_UNROLL _Pragma("GCC unroll 16")
#endif
#define NIBBLE_INLINE inline __attribute__((always_inline))
// Between the parameters and the body of a lambda.
#define NIBBLE_LAMBDA __attribute__((always_inline))

namespace nibble::cpu {

// Software prefetch of memory that is needed soon, spread over other work a few lines at a time.
struct Ahead {
  const char* next = nullptr;
  const char* end = nullptr;
  int64_t step = 0;  // bytes prefetched by each Advance()

  // Spreads [data, data + bytes) over `times` calls of Advance().
  NIBBLE_INLINE void Plan(const void* data, int64_t bytes, int64_t times) {
    next = static_cast<const char*>(data);
    end = next + bytes;
    step = RoundUp(bytes / (times > 0 ? times : 1), 64);
  }

  // kLocality: 2 for the second-level cache, 3 for the first.
  template <int kLocality = 2>
  NIBBLE_INLINE void Advance() {
    const char* const stop = next + step < end ? next + step : end;
    for (; next < stop; next += 64) __builtin_prefetch(next, 0, kLocality);
  }
};

}  // namespace nibble::cpu
