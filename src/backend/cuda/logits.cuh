#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace nibble::cuda {

// The sampling parameters of a row; engine/sampler.h documents them.
struct SamplingRow {
  double temperature;  // below 1e-5: greedy, and the filters are off
  double top_p;        // in (0, 1]
  double min_p;        // in [0, 1]
  uint64_t seed;
  uint64_t position;  // of the token being chosen, in the output
  int64_t top_k;      // below 1: off
};

// Chooses a token for each row as the CPU's sampler does: greedy (a tie goes to the lowest id), or
// temperature, min_p, top_k (ties at the k-th are kept), top_p, and a draw that depends on (seed,
// position) alone. Exact: no sorting, no rejection, nothing approximate. Sums are taken in double,
// in an order of their own, so that a draw differs from the CPU's where it falls within 1e-12 of
// the border between two tokens. Penalties and masks are already in the logits, which are not NaN.
struct SampleArgs {
  const float* logits;        // [rows, vocab]
  const SamplingRow* params;  // [rows]
  double* scratch;            // [rows, vocab]
  int32_t* tokens;            // [rows]
  double* log_probabilities;  // [rows]: of the tokens, by the softmax of the logits themselves
  int32_t rows;
  int32_t vocab;
};
cudaError_t LaunchSample(const SampleArgs& args, cudaStream_t stream);

}  // namespace nibble::cuda
