// Rung 1: a warp a row and head, one key at a time, its dimensions spread over the lanes. What it
// does not do yet: read a key once for the heads that share it, split long sequences, use tensor
// cores.
#include "backend/cuda/attention.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/reduce.cuh"

namespace nibble::cuda {
namespace {

constexpr int kWarps = 4;

// kPerLane: head_dim / 32.
template <int kPerLane>
__global__ void __launch_bounds__(kWarps * 32) AttentionKernel(AttentionArgs args) {
  const int64_t row = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (head >= args.q_heads) return;  // the whole warp, and no barrier follows
  const PageShape& shape = args.shape;
  const int kv_head = head / (args.q_heads / shape.kv_heads);
  const int64_t at = (row * args.q_heads + head) * shape.head_dim + lane;

  float query[kPerLane];
  float sums[kPerLane];
  for (int i = 0; i < kPerLane; ++i) {
    query[i] = __bfloat162float(args.q[at + 32 * i]) * args.scale;
    sums[i] = 0;
  }
  float largest = -INFINITY;
  float total = 0;

  const int sequence = args.sequences[row];
  const int last = sequence == kPaddingRow ? -1 : args.positions[row];
  const int first = args.window > 0 ? max(0, last - args.window + 1) : 0;
  for (int position = first; position <= last; ++position) {
    const int64_t page = args.table.PageOf(sequence, position, shape.page_tokens);
    const int slot = position % shape.page_tokens;
    const __nv_bfloat16* key = args.cache + shape.KeyOffset(page, kv_head, slot) + lane;
    const __nv_bfloat16* value = args.cache + shape.ValueOffset(page, kv_head, slot) + lane;
    float product = 0;
    for (int i = 0; i < kPerLane; ++i) product += query[i] * __bfloat162float(key[32 * i]);
    const float score = WarpSum(product);
    const float new_largest = fmaxf(largest, score);
    const float shrink = expf(largest - new_largest);  // 0 at the first key
    const float weight = expf(score - new_largest);
    total = total * shrink + weight;
    for (int i = 0; i < kPerLane; ++i) {
      sums[i] = sums[i] * shrink + weight * __bfloat162float(value[32 * i]);
    }
    largest = new_largest;
  }
  for (int i = 0; i < kPerLane; ++i) {
    args.out[at + 32 * i] = __float2bfloat16(last < 0 ? 0.0f : sums[i] / total);
  }
}

}  // namespace

cudaError_t LaunchAttention(const AttentionArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.rows),
                  static_cast<unsigned>((args.q_heads + kWarps - 1) / kWarps));
  switch (args.shape.head_dim) {
    case 32:
      return Launch(AttentionKernel<1>, grid, dim3(kWarps * 32), stream, args);
    case 64:
      return Launch(AttentionKernel<2>, grid, dim3(kWarps * 32), stream, args);
    case 128:
      return Launch(AttentionKernel<4>, grid, dim3(kWarps * 32), stream, args);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace nibble::cuda
