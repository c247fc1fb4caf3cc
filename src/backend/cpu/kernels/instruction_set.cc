#include "backend/cpu/kernels/instruction_set.h"

#include <cstdlib>

#include "nibble/error.h"

namespace nibble::cpu {

std::string RequestedInstructionSet(const std::string& name) {
  if (!name.empty()) return name;
  const char* const variable = std::getenv("NIBBLE_INSTRUCTION_SET");
  return variable == nullptr ? "" : variable;
}

const InstructionSet& ChooseInstructionSet(const std::string& name) {
  const std::string wanted = RequestedInstructionSet(name);
  std::string known;
  for (const InstructionSet& set : InstructionSets()) {
    if (wanted.empty()) {
      if (set.is_supported()) return set;
      continue;
    }
    if (wanted == set.name) {
      if (set.is_supported()) return set;
      throw Error(ErrorCode::kUnsupported, "this machine has no " + std::string(set.title) +
                                               ": instruction set \"" + wanted +
                                               "\" cannot run; leave the choice to nibble");
    }
    known += (known.empty() ? "" : ", ") + std::string(set.name);
  }
  throw Error(ErrorCode::kInvalidArgument,
              "unknown instruction set \"" + wanted + "\": expected one of " + known);
}

}  // namespace nibble::cpu
