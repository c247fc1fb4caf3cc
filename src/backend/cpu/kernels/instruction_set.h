#pragma once

#include <span>
#include <string>

#include "backend/cpu/kernels/table.h"

namespace nibble::cpu {

// One table of kernels and the machines it runs on. The list is the only place that names them:
// another instruction set is one more table_*.cc and one more line.
struct InstructionSet {
  const char* name;   // as BackendOptions::instruction_set says it: "avx512"
  const char* title;  // for people: "AVX-512 VNNI"
  bool (*is_supported)();
  const Kernels* kernels;
};

// The instruction sets built into this program, best first; the last one runs everywhere.
std::span<const InstructionSet> InstructionSets();

// What was asked for: `name`, or if that is empty what the environment variable
// NIBBLE_INSTRUCTION_SET says; empty if neither does.
std::string RequestedInstructionSet(const std::string& name);

// That one, else the best this machine has. Throws kInvalidArgument for an unknown name,
// kUnsupported for one this machine lacks.
const InstructionSet& ChooseInstructionSet(const std::string& name);

}  // namespace nibble::cpu
