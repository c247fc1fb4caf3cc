#pragma once

#include "backend/make_backend.h"
#include "bench/kernels.h"

namespace nibble {

struct GptqBenchOptions {
  BackendOptions backend;
  int repeats = 3;
};

// Times the parts of GPTQ on the shapes of one expert of Mixtral-8x22B (6144 inputs) and of the
// demonstration model, each beside the multiply-add rate measured in the same run: Gram updates,
// factorisations, and the sweep over the columns of a slice of w1.
KernelReport BenchGptq(const GptqBenchOptions& options);

}  // namespace nibble
