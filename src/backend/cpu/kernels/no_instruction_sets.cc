#include "backend/cpu/kernels/instruction_set.h"
#include "backend/cpu/kernels/tables.h"

// An architecture without kernels of its own yet.
namespace nibble::cpu {
namespace {

constexpr InstructionSet kSets[] = {
    {"portable", "portable", [] { return true; }, &kPortableKernels},
};

}  // namespace

std::span<const InstructionSet> InstructionSets() { return kSets; }

}  // namespace nibble::cpu
