#include "backend/cpu/kernels/make_table-inl.h"
#include "backend/cpu/kernels/simd_avx512.h"
#include "backend/cpu/kernels/tables.h"

namespace nibble::cpu {

constinit const Kernels kAvx512Kernels = MakeKernels<Avx512>();

}  // namespace nibble::cpu
