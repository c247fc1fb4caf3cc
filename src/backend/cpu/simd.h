#pragma once

#include <cstdint>

// What the kernel templates (*-inl.h) ask of an instruction set: a struct of static functions, such
// as Avx512, over
//
//   F   16 floats                 I   16 int32                B   64 bytes, as 16 lanes of 4
//
// plus how many registers it may fill:
//
//   kRowVectors    vectors of 16 weight rows held at once: 1 or 4
//   kFloatTokens   activation rows held at once by the dense kernel
//   kIntTokens     the same for the packed kernel
//   kDirectTokens  up to so many rows it takes codes apart in registers
//   kRoofSums      independent sums that keep the arithmetic units busy
//   kPairedDot     whether two byte products are cheaper together (DotPair) than one by one (Dot)
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
