#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/kernels-inl.h"
#include "backend/cpu/simd_avx512.h"

namespace nibble::cpu {

constinit const Kernels kAvx512Kernels = MakeKernels<Avx512>();

}  // namespace nibble::cpu
