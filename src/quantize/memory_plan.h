#pragma once

#include <cstdint>

#include "checkpoint/model_config.h"
#include "nibble/quantize.h"
#include "quantize/passes/token_batches.h"
#include "quantize/recipe.h"

namespace nibble {

// What memory the quantization of a layer takes, and what that means for how it is done.
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

// Holds as many experts' Hessians together as the budget allows, with the activations in memory if
// possible, else in a file: fills the memory part of the plan and scratch_disk_bytes. If one expert
// at a time is still too much, the plan is for that, and says in `lacking` by how much.
void PlanMemory(const MemoryQuestion& question, QuantizePlan& plan);

}  // namespace nibble
