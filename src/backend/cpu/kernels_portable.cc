#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/kernels-inl.h"
#include "backend/cpu/simd_portable.h"

namespace nibble::cpu {

constinit const Kernels kPortableKernels = MakeKernels<Portable>();

}  // namespace nibble::cpu
