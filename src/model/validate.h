#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace nibble {

// One rule and what was found. `detail` carries the numbers: shapes, counts, the first offender.
struct Finding {
  bool passed = false;
  std::string rule;
  std::string detail;
};

struct ValidationReport {
  std::vector<Finding> findings;

  bool passed() const;
  // The failed findings, one a line: what an error message quotes.
  std::string Failures() const;
};

// Whether the tensors of a W4A16/W8A16 checkpoint are the ones its configs promise: names (none
// missing, none extra), types, shapes, finite positive scales, and every Linear either quantized or
// ignored. Reads all scales, no packed words. Throws only what Checkpoint throws.
ValidationReport ValidateStructure(const Checkpoint& checkpoint);

// The rules vLLM applies when it loads a compressed-tensors Mixtral on `tensor_parallel_size`
// ranks: scheme, spelling of the experts, kernel shapes, sharding. Source:
// docs/formats.md#what-vllm-accepts.
ValidationReport ValidateForVllm(const Checkpoint& checkpoint, int64_t tensor_parallel_size);

}  // namespace nibble
