#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/spec.h"
#include "nibble/quantize.h"
#include "quantize/passes/slot_selection.h"
#include "quantize/passes/token_batches.h"
#include "quantize/recipe.h"

namespace nibble {

// How every layer is done. Results do not depend on it.
struct LayerPlan {
  enum class Passes {
    kNone,     // rounding to nearest needs no calibration
    kOne,      // attention and all experts in one pass, their Hessians in memory together
    kInTurns,  // attention and router first, then a pass for each group of experts
  };

  Passes passes = Passes::kOne;
  int64_t experts_at_once = 1;       // size of a group: Hessians and dense weights in memory
  bool activations_in_file = false;  // those of all tokens

  // Whether the inputs of the experts of all tokens are kept from one pass to the next, and the
  // router's choices with them.
  bool keeps_expert_input() const { return passes == Passes::kInTurns; }
};

// What the peak memory of quantizing a layer depends on. Borrows.
struct MemoryQuestion {
  const ModelSpec& spec;
  const Recipe& recipe;
  Backend& backend;
  DType stored_dtype = DType::kBF16;  // of the input's Linears
  const TokenBatches& batches;        // the calibration tokens
  int64_t probe_tokens = 0;           // of the probe, the first of them
  ExpertTokens expert_tokens = ExpertTokens::kRouted;
  int64_t written_bytes = 0;  // of the largest layer in the output
  int64_t budget_bytes = 0;
};

struct MemoryPlan {
  LayerPlan layers;
  std::vector<QuantizePlan::Item> items;  // resident at the peak
  int64_t bytes = 0;                      // their sum
  int64_t disk_bytes = 0;                 // of activations in a file
  std::string lacking;                    // by how much the budget is too small; empty if it is not
};

// Has as many experts' Hessians in memory together as the budget allows, with the activations in
// memory if possible, else in a file; one expert at a time, with `lacking`, if the budget is too
// small even for that.
MemoryPlan PlanMemory(const MemoryQuestion& question);

}  // namespace nibble
