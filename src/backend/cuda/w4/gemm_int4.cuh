#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "backend/cuda/w4/w4_layout.h"

// Products of BF16 rows with 4-bit weights in W4T (w4_layout.h): y = x W^T, of one matrix or of one
// for each expert. Products of codes are exact, sums of a group are in float and multiplied by the
// group's scale in float.
namespace nibble::cuda {

inline constexpr int32_t kMaxW4Experts = 64;

enum class W4Output : int32_t {
  kBf16,    // bf16 [*, rows of W]; in the order of q, k, v where `head_dim` is given
  kF32,     // float [*, rows of W]; times out_weights, where given
  kSwiGlu,  // bf16 [*, rows of W / 2]: silu(gate) * up of a merged matrix (GateUpSource)
};

// A list of rows, sorted by expert: which row of x each gathers, with which expert, and to which
// row of the result it is scattered.
struct W4GemmArgs {
  W4Layout layout;              // of each expert's matrix
  const std::byte* weights;     // [num_experts][layout.size_bytes()], aligned to 128 bytes
  int32_t num_experts;          // at most kMaxW4Experts; 1 for a dense layer
  const int32_t* offsets;       // [num_experts + 1], on the device: expert e has rows offsets[e] to
                                // offsets[e + 1] of the list; null: one expert with num_rows
  int32_t num_rows;             // of the list; with offsets only an upper bound for the launch
  int32_t max_rows_per_expert;  // upper bound for each expert: the number of tokens of the step

  const __nv_bfloat16* x;  // [*, layout.cols], aligned to 16 bytes
  const int32_t* x_rows;   // list row i reads row x_rows[i] / x_rows_per of x; null: row i
  int32_t x_rows_per;      // top_k where x_rows counts pairs; at least 1

  W4Output output;
  void* out;                 // distinct list rows go to distinct rows
  const int32_t* out_rows;   // list row i becomes row out_rows[i]; null: row i
  const float* out_weights;  // [rows of out] or null; kF32 only

  int32_t num_heads;  // kBf16 of a merged q, k, v (QkvSource); head_dim 0: rows as they are
  int32_t num_kv_heads;
  int32_t head_dim;
};

// Rung 0: a thread an output, code by code. The twin of the others on the device.
cudaError_t LaunchNaiveW4Gemm(const W4GemmArgs& args, cudaStream_t stream);

// How the skinny kernel divides its work, and where it keeps partial sums.
struct SkinnyPlan {
  int32_t num_ctas;      // multiprocessors of the device: blocks that run at once
  int32_t splits;        // 0: stream-K; else slices a tile, the same for any batch (stream_k.h)
  int32_t shared_bytes;  // cudaDevAttrMaxSharedMemoryPerBlockOptin
  float* workspace;      // WorkspaceFloats(), any content
  uint32_t* flags;       // WorkspaceFlags(), zero; left zero. Neither is shared with a launch
                         // that may run at the same time
};

// The token tile of a launch: 8, 16, 24, 32, 48 or 64 rows of the list at a time.
constexpr int32_t TokenTile(int32_t max_rows_per_expert) {
  for (const int32_t tile : {8, 16, 24, 32, 48}) {
    if (max_rows_per_expert <= tile) return tile;
  }
  return 64;
}

// Number of flags, one for each slot of partial sums that a launch may need.
int64_t WorkspaceFlags(const W4GemmArgs& args, const SkinnyPlan& plan);
int64_t WorkspaceFloats(const W4GemmArgs& args, const SkinnyPlan& plan);

// Rung 1, for up to 64 rows of a matrix; right for more. A block works on 256 rows of the weight
// and a token tile, group by group through a ring of stages in shared memory (a software pipeline);
// each of its 8 warps owns some of the rows. cudaErrorInvalidValue for experts beyond kMaxW4Experts
// or too little shared memory.
cudaError_t LaunchSkinnyW4Gemm(const W4GemmArgs& args, const SkinnyPlan& plan, cudaStream_t stream);

// Rung 2, for sm_90 and later (elsewhere the kernel traps): a producer warp keeps the ring full
// with bulk copies (TMA), and the consumer warps wait for it alone. The same bits as rung 1. Token
// tiles of 64 run rung 1.
cudaError_t LaunchBulkW4Gemm(const W4GemmArgs& args, const SkinnyPlan& plan, cudaStream_t stream);

// One expert's matrix as BF16, row-major [layout.rows, layout.cols], the product of code and scale
// rounded once: what a library's product of many rows reads.
struct DequantizeW4Args {
  W4Layout layout;
  const std::byte* weights;  // of one matrix
  __nv_bfloat16* out;        // aligned to 4 bytes
};
cudaError_t LaunchDequantizeW4(const DequantizeW4Args& args, cudaStream_t stream);

// The epilogue of the products alone, for sums computed elsewhere: list rows [first_row, first_row
// + num_rows) become rows of args.out. Reads layout, output, out* and heads of `args`.
//   sums  [num_rows, layout.rows]
cudaError_t LaunchStoreW4Sums(const W4GemmArgs& args, const float* sums, int32_t first_row,
                              int32_t num_rows, cudaStream_t stream);

}  // namespace nibble::cuda
