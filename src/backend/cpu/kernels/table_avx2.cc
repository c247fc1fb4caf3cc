#include "backend/cpu/kernels/make_table-inl.h"
#include "backend/cpu/kernels/simd_avx2.h"
#include "backend/cpu/kernels/tables.h"

namespace nibble::cpu {

constinit const Kernels kAvx2Kernels = MakeKernels<Avx2>();

}  // namespace nibble::cpu
