#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

// Which experts run on which tokens. A pair is a (token, choice): pair p = token * top_k + choice.
// The experts' kernels see the pairs sorted by expert, and within an expert by token: sorted row r
// is pair pair_of_row[r]. Everything stays on the device, in arrays of fixed capacity, so that a
// captured graph needs no counts on the host.
namespace nibble::cuda {

constexpr int32_t kMaxExperts = 16;
constexpr int32_t kMaxTopK = 8;

// logits = h router^T in fp32; the top_k largest (a tie goes to the lower index), best first, and
// their softmax weights, which sum to 1.
struct RouterArgs {
  const __nv_bfloat16* h;       // [rows, hidden], normed
  const __nv_bfloat16* router;  // [num_experts, hidden]
  const int32_t* sequences;     // [rows] or null; a kPaddingRow gets experts -1 and weights 0
  float* logits;                // [rows, num_experts]
  int32_t* experts;             // [rows, top_k]
  float* weights;               // [rows, top_k]
  int32_t rows;
  int32_t hidden;
  int32_t num_experts;  // at most kMaxExperts
  int32_t top_k;        // at most kMaxTopK and num_experts
  bool round_logits;    // to bf16 before choosing, as transformers does in bf16
};
cudaError_t LaunchRouter(const RouterArgs& args, cudaStream_t stream);

// Maximum number of tiles of tile_rows sorted rows, where a tile belongs to one expert.
constexpr int32_t MaxTiles(int32_t pairs, int32_t num_experts, int32_t tile_rows) {
  return pairs / tile_rows + num_experts;
}

// The stable sort of pairs by expert, and the list of tiles that cover it.
struct MoeSortArgs {
  const int32_t* experts;  // [pairs], each in [0, num_experts), or -1: no expert
  int32_t* offsets;      // [num_experts + 1]: expert e has sorted rows [offsets[e], offsets[e + 1])
  int32_t* pair_of_row;  // [pairs]; -1 from offsets[num_experts] on
  int32_t* row_of_pair;  // [pairs]; -1 for a pair without an expert
  int32_t* tile_expert;  // [MaxTiles], in order of rows; -1 after the last tile
  int32_t* tile_first_row;  // [MaxTiles]; likewise
  int32_t pairs;
  int32_t num_experts;  // at most kMaxExperts
  int32_t tile_rows;
};
cudaError_t LaunchMoeSort(const MoeSortArgs& args, cudaStream_t stream);

// out[r] = x[pair_of_row[r] / top_k], or zeros where pair_of_row[r] is -1: gathers rows in the
// order of experts, for kernels that cannot gather.
struct GatherRowsArgs {
  const __nv_bfloat16* x;      // [tokens, cols]
  const int32_t* pair_of_row;  // [rows]
  __nv_bfloat16* out;          // [rows, cols]
  int32_t rows;
  int32_t cols;
  int32_t top_k;
};
cudaError_t LaunchGatherRows(const GatherRowsArgs& args, cudaStream_t stream);

}  // namespace nibble::cuda
