#include "backend/cpu/kernels/tables.h"

namespace nibble::cpu {
namespace {

void AttendWithTiles(const AttentionBlock& block) {
  if (block.type == PageType::kInt8) {
    AmxAttendInt8(block);
  } else {
    kAvx512Kernels.attend(block);
  }
}

Kernels WithTiles(Kernels kernels) {
  kernels.attend = AttendWithTiles;
  kernels.packed_tiles = AmxPackedTiles;
  kernels.dot_bytes = AmxDotBytes;
  kernels.dot_bytes_ops_per_round = kAmxDotBytesOps;
  return kernels;
}

}  // namespace

// A copy, made when the program starts: to make the table a second time would compile all the
// kernels of AVX-512 twice. So this file is compiled for no instruction set in particular.
const Kernels kAmxKernels = WithTiles(kAvx512Kernels);

}  // namespace nibble::cpu
