#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/kernels-inl.h"
#include "backend/cpu/simd_avx512.h"

namespace nibble::cpu {

namespace {

constexpr Kernels WithTiles(Kernels kernels) {
  kernels.packed_tiles = AmxPackedTiles;
  kernels.dot_bytes = AmxDotBytes;
  kernels.dot_bytes_ops_per_round = kAmxDotBytesOps;
  return kernels;
}

}  // namespace

constinit const Kernels kAvx512Kernels = MakeKernels<Avx512>();
constinit const Kernels kAmxKernels = WithTiles(MakeKernels<Avx512>());

}  // namespace nibble::cpu
