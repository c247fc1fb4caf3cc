#include "backend/cpu/instruction_set.h"
#include "backend/cpu/kernel_tables.h"

namespace nibble::cpu {
namespace {

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

constexpr InstructionSet kSets[] = {
    {"avx512", "AVX-512 VNNI", HasAvx512, &kAvx512Kernels},
    {"avx2", "AVX2", HasAvx2, &kAvx2Kernels},
    {"portable", "portable", [] { return true; }, &kPortableKernels},
};

}  // namespace

std::span<const InstructionSet> InstructionSets() { return kSets; }

}  // namespace nibble::cpu
