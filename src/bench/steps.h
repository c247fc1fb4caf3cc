#pragma once

#include <cstdint>
#include <string>

#include "bench/roofline.h"
#include "checkpoint/checkpoint.h"
#include "tensor/dtype.h"

namespace nibble {

// The minimum work of a step, for its roofline.
struct StepWork {
  double weight_bytes = 0;  // read once
  double cache_bytes = 0;   // keys and values of the contexts, read once
  double float_flops = 0;   // multiply-adds with dense weights, two each
  double packed_ops = 0;    // with packed weights

  // Lower bound of the time of a step: the larger of the times for reading and computing.
  double MinimumSeconds(const cpu::Roofline& roofline, int activation_bits) const;
};

struct StepShape {
  int64_t sequences = 1;
  int64_t tokens = 1;   // of each sequence; logits are made for its last one
  int64_t context = 0;  // of each sequence, cached when the step starts

  int64_t total_tokens() const { return sequences * tokens; }
};

// A token reads the weights of its own experts; together the tokens read each expert at most once.
StepWork WorkOfStep(const Checkpoint& checkpoint, const StepShape& shape, DType cache_type);

struct StepReport {
  std::string backend;
  cpu::Roofline roofline;
  StepWork work;
  StepShape shape;
  double seconds = 0;       // median of a step
  double roof_seconds = 0;  // work.MinimumSeconds

  double tokens_per_second() const { return static_cast<double>(shape.total_tokens()) / seconds; }
  double share_of_roof() const { return roof_seconds / seconds; }
  double read_bytes_per_second() const { return (work.weight_bytes + work.cache_bytes) / seconds; }
  double bandwidth_share() const {
    return read_bytes_per_second() / roofline.read_bytes_per_second;
  }
};

struct StepBenchOptions {
  std::string directory;
  BackendOptions backend;
  StepShape shape;
  DType cache_type = DType::kF32;
  int repeats = 9;
};

// Loads the model and times steps: decoding (one token; each step follows the one before) or
// prompts (each into the same pages).
StepReport BenchSteps(const StepBenchOptions& options);

struct LoadReport {
  std::string backend;
  cpu::Roofline roofline;
  bool packed = false;       // the weights were mapped, rather than repacked
  int64_t weight_bytes = 0;  // of the whole model
  double seconds = 0;        // median
  double roof_seconds = 0;   // of the first token's step

  double share_of_roof() const { return roof_seconds / seconds; }
};

struct LoadBenchOptions {
  std::string directory;
  BackendOptions backend;
  int repeats = 9;
};

// Times all of loading: opens the checkpoint, takes its weights, computes the logits of one token,
// which touches mapped weights for the first time, and closes it. The files' pages are in memory.
LoadReport BenchLoad(const LoadBenchOptions& options);

}  // namespace nibble
