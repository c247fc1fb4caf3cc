#pragma once

#include "backend/cpu/kernels/attention-inl.h"
#include "backend/cpu/kernels/attention_int8-inl.h"
#include "backend/cpu/kernels/dense-inl.h"
#include "backend/cpu/kernels/packed-inl.h"
#include "backend/cpu/kernels/roofline-inl.h"
#include "backend/cpu/kernels/rows-inl.h"
#include "backend/cpu/kernels/table.h"

namespace nibble::cpu {

template <typename Isa>
void AttendKernel(const AttentionBlock& block) {
  switch (block.type) {
    case PageType::kFloat:
      return Attend<Isa, float>(block).Run();
    case PageType::kBf16:
      return Attend<Isa, uint16_t>(block).Run();
    case PageType::kInt8:
      return AttendInt8<Isa>(block).Run();
  }
}

template <typename Isa>
constexpr Kernels MakeKernels() {
  Kernels kernels{};
  kernels.rms_norm = RmsNorm<Isa>;
  kernels.fix_row = FixRow<Isa>;
  kernels.dense_tiles = DenseTilesKernel<Isa>;
  kernels.packed_tiles = PackedTilesKernel<Isa>;
  kernels.store_tile = StoreTile<Isa>;
  kernels.add_tile = AddTile<Isa>;
  kernels.silu_tile = SiluTile<Isa>;
  kernels.accumulate = Accumulate<Isa>;
  kernels.rotate = Rotate<Isa>;
  kernels.attend = AttendKernel<Isa>;
  kernels.fold_spans = FoldSpansKernel<Isa>;
  kernels.read_memory = ReadMemory<Isa>;
  kernels.multiply_add = MultiplyAdd<Isa>;
  kernels.dot_bytes = DotBytes<Isa>;
  kernels.multiply_add_flops_per_round = int64_t{2} * 16 * Isa::kRoofFloatSums;
  kernels.dot_bytes_ops_per_round = int64_t{2} * 128 * Isa::kRoofIntSums;
  return kernels;
}

}  // namespace nibble::cpu
