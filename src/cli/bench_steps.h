#pragma once

#include <cstdint>
#include <string>

#include "backend/cpu/roofline.h"
#include "checkpoint/checkpoint.h"

namespace nibble {

// What the linears of a model must do at least, for the roof of a step.
struct LinearWork {
  double weight_bytes = 0;  // read once
  double float_flops = 0;   // multiply-adds with dense weights, two each
  double int4_ops = 0;      // with packed weights
  double int8_ops = 0;

  // The time below which no step can finish on that machine: the larger of reading and computing.
  double MinimumSeconds(const cpu::Roofline& roofline) const;
};

// Of a step over `tokens` tokens of one sequence with logits for the last one. Of the experts'
// weights a token reads its own; together the tokens read each expert at most once.
LinearWork WorkOfStep(const Checkpoint& checkpoint, int64_t tokens);

struct StepReport {
  std::string backend;
  cpu::Roofline roofline;
  LinearWork work;     // of one step
  int64_t tokens = 0;  // of one step
  double seconds = 0;  // median of a step
  double tokens_per_second() const { return static_cast<double>(tokens) / seconds; }
  double share_of_roof() const { return work.MinimumSeconds(roofline) / seconds; }
};

struct StepBenchOptions {
  std::string directory;
  BackendOptions backend;
  int64_t tokens = 1;   // of the measured step
  int64_t context = 0;  // tokens already cached when it starts
  int repeats = 9;
};

// Loads the model and times steps: decoding (tokens == 1; each step follows the one before) or
// prompts (each into the same empty pages).
StepReport BenchSteps(const StepBenchOptions& options);

}  // namespace nibble
