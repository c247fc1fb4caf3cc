#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace nibble::cuda {

// x[t] += Σ_j pairs[t * pairs_per_row + j], added in order of j; normed[t] = RMSNorm(x[t]) *
// weight. The sum is rounded to bf16, and it is the rounded row that is normed, as transformers
// does it.
struct AddRmsNormArgs {
  __nv_bfloat16* x;    // [rows, hidden], the residual stream; changed where pairs are given
  const float* pairs;  // [rows * pairs_per_row, hidden] or null
  const __nv_bfloat16* weight;  // [hidden]
  __nv_bfloat16* normed;        // [rows, hidden]
  int32_t rows;
  int32_t hidden;
  int32_t pairs_per_row;  // the routing's top k, or 1 for one matrix's output
  float eps;
};
cudaError_t LaunchAddRmsNorm(const AddRmsNormArgs& args, cudaStream_t stream);

}  // namespace nibble::cuda
