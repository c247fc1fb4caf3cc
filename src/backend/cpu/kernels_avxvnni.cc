#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/kernels-inl.h"
#include "backend/cpu/simd_avxvnni.h"

namespace nibble::cpu {

constinit const Kernels kAvxVnniKernels = MakeKernels<AvxVnni>();

}  // namespace nibble::cpu
