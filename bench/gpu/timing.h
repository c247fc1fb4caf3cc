#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "backend/cuda/cases/problem.h"

namespace nibble::cuda::bench {

// The median time of `repeats` calls, by events on the stream, after two warm-up calls. Exits with
// a message if a call fails.
double MedianSeconds(cudaStream_t stream, int repeats, const std::function<cudaError_t()>& launch);

struct Timing {
  double seconds = 0;  // of one launch
  double bytes = 0;    // minimum moved and computed by one
  double operations = 0;
  int copies = 0;     // of the problem, used round-robin, so that the caches are cold
  bool graph = true;  // false: capture failed, so the launch's cost on the host is included
};

// Replays a graph of launches over copies of the problem, `first` and others made here, that
// together are larger than the L2 four times over.
Timing TimeCase(const Case& one, std::unique_ptr<Problem> first, int64_t l2_bytes, uint64_t seed,
                cudaStream_t stream);

}  // namespace nibble::cuda::bench
