#pragma once

#include <cstdint>

#include "checkpoint/model_config.h"
#include "nibble/quantize.h"
#include "quantize/passes/token_batches.h"
#include "quantize/recipe.h"

namespace nibble {

// Everything that the peak memory of quantizing a layer depends on. `batches` are the calibration
// tokens, `probe_tokens` of which form the probe.
struct MemoryQuestion {
  const ModelConfig* config = nullptr;
  const Recipe* recipe = nullptr;
  const TokenBatches* batches = nullptr;
  int64_t probe_tokens = 0;
  int64_t dense_bytes_per_weight = 2;  // in the backend's layout
  int threads = 1;
  bool all_experts = false;
  bool top_up = false;
  int64_t budget_bytes = 0;
};

// Decides how many experts' Hessians are in memory together (as many as the budget allows) and
// whether activations are in memory or in a file: fills the memory part of the plan and
// scratch_disk_bytes. Throws kResourceExhausted with the numbers if one expert at a time exceeds
// the budget.
void PlanMemory(const MemoryQuestion& question, QuantizePlan& plan);

}  // namespace nibble
