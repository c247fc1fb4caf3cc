#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/pages.h"

namespace nibble::cuda {

// Rotates queries and keys by their positions (pairs are (i, i + head_dim / 2)) and puts keys and
// values into the pages. Products in fp32, each result rounded once: to bf16, or to a code where
// the pages hold int8, whose scale is the largest magnitude of the vector over 127.
struct RopeStoreArgs {
  const __nv_bfloat16* qkv;  // [rows, (q_heads + 2 * kv_heads) * head_dim]: queries, keys, values
  const float2* cos_sin;     // [max positions, head_dim / 2]
  const int32_t* positions;  // [rows]
  const int32_t* sequences;  // [rows]; kPaddingRow: stores nothing, its queries are zero
  PageTable table;
  PageShape shape;
  __nv_bfloat16* q;  // [rows, q_heads * head_dim]
  PageData cache;    // of the layer
  int32_t rows;
  int32_t q_heads;
};
cudaError_t LaunchRopeStore(const RopeStoreArgs& args, cudaStream_t stream);

}  // namespace nibble::cuda
