#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "backend/cuda/cases/problem.h"

namespace nibble::cuda::bench {

// The median time of one call among `repeats`, by events on the stream, after two that do not
// count. Exits with a message where a call fails.
double MedianSeconds(cudaStream_t stream, int repeats, const std::function<cudaError_t()>& launch);

struct Timing {
  double seconds = 0;  // of one launch
  double bytes = 0;    // what one has to move and compute at least
  double operations = 0;
  int copies = 0;     // of the problem, used in turn, so that the caches hold none of them
  bool graph = true;  // false: capture failed, so the launch's cost on the host is included
};

// Replays a graph of launches over copies of the problem, `first` and others made here, that
// together are larger than the L2 four times over.
Timing TimeCase(const Case& one, std::unique_ptr<Problem> first, int64_t l2_bytes, uint64_t seed,
                cudaStream_t stream);

}  // namespace nibble::cuda::bench
