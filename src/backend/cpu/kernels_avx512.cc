#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/kernels-inl.h"
#include "backend/cpu/simd_avx512.h"

namespace nibble::cpu {

namespace {

void AttendWithTiles(const AttentionBlock& block) {
  if (block.type == PageType::kInt8) {
    AmxAttendInt8(block);
  } else {
    AttendKernel<Avx512>(block);
  }
}

constexpr Kernels WithTiles(Kernels kernels) {
  kernels.attend = AttendWithTiles;
  kernels.packed_tiles = AmxPackedTiles;
  kernels.dot_bytes = AmxDotBytes;
  kernels.dot_bytes_ops_per_round = kAmxDotBytesOps;
  return kernels;
}

}  // namespace

constinit const Kernels kAvx512Kernels = MakeKernels<Avx512>();
constinit const Kernels kAmxKernels = WithTiles(MakeKernels<Avx512>());

}  // namespace nibble::cpu
