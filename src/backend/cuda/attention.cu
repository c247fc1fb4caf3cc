// Rung 1: a warp a row and head, one key at a time, its dimensions spread over the lanes. What it
// does not do yet: read a key once for the heads that share it, split long sequences, use tensor
// cores.
#include "backend/cuda/attention.cuh"
#include "backend/cuda/launch.h"
#include "backend/cuda/reduce.cuh"

namespace nibble::cuda {
namespace {

constexpr int kWarps = 4;

// The key or value of one token and head.
template <typename Element>
struct Run {
  const Element* elements;
  float scale = 1;

  __device__ Run(const PageData& cache, int64_t offset, int head_dim)
      : elements(static_cast<const Element*>(cache.elements) + offset) {
    if constexpr (sizeof(Element) == 1) scale = cache.scales[offset / head_dim];
  }
  __device__ float Unscaled(int i) const {
    if constexpr (sizeof(Element) == 1) {
      return static_cast<float>(elements[i]);
    } else {
      return __bfloat162float(elements[i]);
    }
  }
};

// kPerLane: head_dim / 32. Element: __nv_bfloat16 or int8_t.
template <typename Element, int kPerLane>
__global__ void __launch_bounds__(kWarps * 32) AttentionKernel(AttentionArgs args) {
  const int64_t row = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (head >= args.q_heads) return;  // whole warps leave, and no barrier follows
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
    const Run<Element> key(args.cache, shape.KeyOffset(page, kv_head, slot), shape.head_dim);
    const Run<Element> value(args.cache, shape.ValueOffset(page, kv_head, slot), shape.head_dim);
    float product = 0;
    for (int i = 0; i < kPerLane; ++i) product += query[i] * key.Unscaled(lane + 32 * i);
    const float score = WarpSum(product) * key.scale;
    const float new_largest = fmaxf(largest, score);
    const float shrink = expf(largest - new_largest);  // 0 at the first key
    const float weight = expf(score - new_largest);
    total = total * shrink + weight;
    const float scaled_weight = weight * value.scale;
    for (int i = 0; i < kPerLane; ++i) {
      sums[i] = sums[i] * shrink + scaled_weight * value.Unscaled(lane + 32 * i);
    }
    largest = new_largest;
  }
  for (int i = 0; i < kPerLane; ++i) {
    args.out[at + 32 * i] = __float2bfloat16(last < 0 ? 0.0f : sums[i] / total);
  }
}

template <typename Element>
cudaError_t LaunchOver(const AttentionArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.rows),
                  static_cast<unsigned>((args.q_heads + kWarps - 1) / kWarps));
  switch (args.shape.head_dim) {
    case 32:
      return Launch(AttentionKernel<Element, 1>, grid, dim3(kWarps * 32), stream, args);
    case 64:
      return Launch(AttentionKernel<Element, 2>, grid, dim3(kWarps * 32), stream, args);
    case 128:
      return Launch(AttentionKernel<Element, 4>, grid, dim3(kWarps * 32), stream, args);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t LaunchAttention(const AttentionArgs& args, cudaStream_t stream) {
  return args.cache.scales == nullptr ? LaunchOver<__nv_bfloat16>(args, stream)
                                      : LaunchOver<int8_t>(args, stream);
}

}  // namespace nibble::cuda
