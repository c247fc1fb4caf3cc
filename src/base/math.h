#pragma once

// Whole numbers in host and device code. Kernels that are compiled once for each instruction set
// use this header: it includes nothing, and no copy of a function compiled for the widest set can
// be linked elsewhere, since all are inlined by force.
#ifdef __CUDACC__
#define NIBBLE_MATH __host__ __device__ __forceinline__ constexpr
#else
#define NIBBLE_MATH [[gnu::always_inline]] constexpr
#endif

namespace nibble {

// a / b rounded up, for a >= 0 and b > 0.
template <typename A, typename B>
NIBBLE_MATH auto CeilDiv(A a, B b) {
  return (a + b - 1) / b;
}

// The smallest multiple of b that is at least a, for a >= 0 and b > 0.
template <typename A, typename B>
NIBBLE_MATH auto RoundUp(A a, B b) {
  return (a + b - 1) / b * b;
}

}  // namespace nibble

#undef NIBBLE_MATH
