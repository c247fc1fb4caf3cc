#pragma once

#include "backend/cpu/kernels.h"

// Defined by the kernels_*.cc that are built for this architecture; only dispatch needs them.
namespace nibble::cpu {

extern const Kernels kPortableKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

}  // namespace nibble::cpu
