#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/pages.h"

namespace nibble::cuda {

// Causal grouped-query attention over paged keys and values, for decoding and prompts alike: a row
// sees the tokens of its sequence from position - window + 1 (or 0) to its own position, all of
// which are in the pages. Softmax and sums in fp32.
struct AttentionArgs {
  const __nv_bfloat16* q;    // [rows, q_heads * head_dim], rotated
  PageData cache;            // of the layer, only read
  const int32_t* positions;  // [rows]
  const int32_t* sequences;  // [rows]; kPaddingRow: the result is zero
  PageTable table;
  PageShape shape;     // head_dim 32, 64 or 128; kv_heads divides q_heads
  __nv_bfloat16* out;  // [rows, q_heads * head_dim]
  int32_t rows;
  int32_t q_heads;
  int32_t window;  // 0: unlimited
  float scale;     // of the products, 1 / sqrt(head_dim)
};
cudaError_t LaunchAttention(const AttentionArgs& args, cudaStream_t stream);

}  // namespace nibble::cuda
