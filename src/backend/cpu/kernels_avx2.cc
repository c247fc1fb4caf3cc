#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/kernels-inl.h"
#include "backend/cpu/simd_avx2.h"

namespace nibble::cpu {

constinit const Kernels kAvx2Kernels = MakeKernels<Avx2>();

}  // namespace nibble::cpu
