#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_writer.h"

namespace nibble {

// How much a finding matters, best first.
enum class Grade {
  kOk,
  kUnusual,  // not as nibble would write it, and without consequence
  kDiffers,  // vLLM loads it, and gets another model than the configuration promises
  kFails,    // vLLM does not load it
};

const char* Name(Grade grade);  // "ok", "unusual", "differs", "fails"

// One rule and what was found. `detail` carries the numbers: shapes, counts, the first offender of
// the worst grade.
struct Finding {
  Grade grade = Grade::kOk;
  std::string rule;
  std::string detail;

  bool passed() const { return grade <= Grade::kUnusual; }
};

struct ValidationReport {
  std::vector<Finding> findings;

  Grade verdict() const;  // the worst grade
  bool passed() const { return verdict() <= Grade::kUnusual; }
  // The findings that are not ok, one a line: what an error message quotes.
  std::string Remarks() const;
};

// Whether the tensors of a dense or W4A16/W8A16 checkpoint are the ones its configs promise: names
// (none missing, none extra), types, shapes, finite positive scales, and every Linear quantized or
// not as quantization_config says. Reads all scales, no packed words. Throws only what Checkpoint
// throws.
ValidationReport ValidateStructure(const Checkpoint& checkpoint);

// The part of it that needs names, types and shapes alone, for tensors that are yet to be written.
ValidationReport ValidatePlan(const ModelConfig& config, const std::optional<QuantConfig>& quant,
                              const std::vector<TensorPlan>& tensors);

// ValidateStructure, and the rules vLLM applies when it loads a compressed-tensors Mixtral on
// `tensor_parallel_size` ranks: scheme, spelling of the experts, kernel shapes, sharding. Source:
// docs/formats.md#what-vllm-accepts.
ValidationReport ValidateForVllm(const Checkpoint& checkpoint, int64_t tensor_parallel_size);

}  // namespace nibble
