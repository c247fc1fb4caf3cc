#include "backend/cpu/kernels/make_table-inl.h"
#include "backend/cpu/kernels/simd_avxvnni.h"
#include "backend/cpu/kernels/tables.h"

namespace nibble::cpu {

constinit const Kernels kAvxVnniKernels = MakeKernels<AvxVnni>();

}  // namespace nibble::cpu
