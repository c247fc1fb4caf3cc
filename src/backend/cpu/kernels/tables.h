#pragma once

#include "backend/cpu/kernels/table.h"

// Defined by the table_*.cc that are built for this architecture; only dispatch needs them.
namespace nibble::cpu {

extern const Kernels kPortableKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvxVnniKernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAmxKernels;  // kAvx512Kernels with the next three; initialized at start-up

void AmxPackedTiles(const PackedFormat& format, const PackedTiles& tiles, const FixedPointRows& x,
                    int64_t first_row, int64_t num_rows, float* sums, void* scratch);
void AmxAttendInt8(const AttentionBlock& block);
int32_t AmxDotBytes(int64_t rounds);
inline constexpr int64_t kAmxDotBytesOps = 4 * 2 * 16 * 16 * 64;

}  // namespace nibble::cpu
