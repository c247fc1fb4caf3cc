#pragma once

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/w4/gemm_int4.cuh"

namespace nibble::cuda {

// The product of many rows with 4-bit weights by way of cuBLAS, expert by expert: dequantize the
// matrix to BF16, multiply, store. The first rung for prompts: it writes and reads four times the
// bytes of the weights, which from some thousand rows on is small compared with the product itself.
// Weights are rounded to BF16 after scaling, so results differ from those of the skinny kernel in
// the third digit.
struct GroupedW4GemmArgs {
  W4GemmArgs gemm;              // x_rows must be null (rows in the order of the list, as GatherRows
                                // leaves them); offsets and max_rows_per_expert are not read
  const int32_t* host_offsets;  // [num_experts + 1], on the host; null: one expert with num_rows
  __nv_bfloat16* weight;        // scratch [layout.rows, layout.cols]
  float* sums;                  // scratch [most rows of an expert, layout.rows]
};

// Everything goes to `stream`, which becomes the handle's. Not for graphs that outlive the offsets.
// CUBLAS_STATUS_INVALID_VALUE for x_rows, CUBLAS_STATUS_EXECUTION_FAILED where a launch failed.
cublasStatus_t GroupedW4Gemm(cublasHandle_t handle, const GroupedW4GemmArgs& args,
                             cudaStream_t stream);

}  // namespace nibble::cuda
