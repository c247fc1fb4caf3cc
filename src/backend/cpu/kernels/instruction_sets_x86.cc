#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/cpu/kernels/instruction_set.h"
#include "backend/cpu/kernels/tables.h"

namespace nibble::cpu {
namespace {

struct CpuidRegisters {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

CpuidRegisters ExtendedFeatures(unsigned subleaf) {
  CpuidRegisters r;
  if (__get_cpuid_count(7, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) r = {};
  return r;
}

bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool HasAvxVnni() {
  constexpr unsigned kAvxVnni = 1u << 4;
  return HasAvx2() && (ExtendedFeatures(1).a & kAvxVnni) != 0;
}

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

// Tile registers are large: Linux enables them for a process on request (arch_prctl), once, before
// its threads use them; repeating the request is harmless.
bool HasAmx() {
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  const unsigned d = ExtendedFeatures(0).d;
  return HasAvx512() && (d & kTile) != 0 && (d & kInt8) != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

constexpr InstructionSet kSets[] = {
    {"amx", "AMX int8", HasAmx, &kAmxKernels},
    {"avx512", "AVX-512 VNNI", HasAvx512, &kAvx512Kernels},
    {"avxvnni", "AVX-VNNI", HasAvxVnni, &kAvxVnniKernels},
    {"avx2", "AVX2", HasAvx2, &kAvx2Kernels},
    {"portable", "portable", [] { return true; }, &kPortableKernels},
};

}  // namespace

std::span<const InstructionSet> InstructionSets() { return kSets; }

}  // namespace nibble::cpu
