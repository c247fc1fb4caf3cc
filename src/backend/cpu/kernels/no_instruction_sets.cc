#include "backend/cpu/kernels/instruction_set.h"
#include "backend/cpu/kernels/tables.h"

// The list for an architecture without kernels of its own.
namespace nibble::cpu {
namespace {

constexpr InstructionSet kSets[] = {
    {"portable", "portable", [] { return true; }, &kPortableKernels},
};

}  // namespace

std::span<const InstructionSet> InstructionSets() { return kSets; }

}  // namespace nibble::cpu
