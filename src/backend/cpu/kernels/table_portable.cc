#include "backend/cpu/kernels/make_table-inl.h"
#include "backend/cpu/kernels/simd_portable.h"
#include "backend/cpu/kernels/tables.h"

namespace nibble::cpu {

constinit const Kernels kPortableKernels = MakeKernels<Portable>();

}  // namespace nibble::cpu
