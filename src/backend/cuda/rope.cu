// Rung 1: a block a row; a thread takes every 128th pair.
#include "backend/cuda/launch.h"
#include "backend/cuda/rope.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) RopeStoreKernel(RopeStoreArgs args) {
  const int64_t row = blockIdx.x;
  const PageShape& shape = args.shape;
  const int half = shape.head_dim / 2;
  const int rotated_heads = args.q_heads + shape.kv_heads;
  const int all_heads = rotated_heads + shape.kv_heads;
  const __nv_bfloat16* from = args.qkv + row * all_heads * shape.head_dim;
  __nv_bfloat16* q = args.q + row * args.q_heads * shape.head_dim;

  const int sequence = args.sequences[row];
  if (sequence == kPaddingRow) {
    for (int i = static_cast<int>(threadIdx.x); i < args.q_heads * shape.head_dim; i += kThreads) {
      q[i] = __float2bfloat16(0.0f);
    }
    return;
  }
  const int position = args.positions[row];
  const int slot = position % shape.page_tokens;
  const int64_t page = args.table.PageOf(sequence, position, shape.page_tokens);

  for (int i = static_cast<int>(threadIdx.x); i < all_heads * half; i += kThreads) {
    const int head = i / half;
    const int pair = i % half;
    const __nv_bfloat16 first = from[head * shape.head_dim + pair];
    const __nv_bfloat16 second = from[head * shape.head_dim + pair + half];
    if (head >= rotated_heads) {
      __nv_bfloat16* value = args.cache + shape.ValueOffset(page, head - rotated_heads, slot);
      value[pair] = first;
      value[pair + half] = second;
      continue;
    }
    const float2 angle = args.cos_sin[static_cast<int64_t>(position) * half + pair];
    const float a = __bfloat162float(first);
    const float b = __bfloat162float(second);
    __nv_bfloat16* to = head < args.q_heads
                            ? q + head * shape.head_dim
                            : args.cache + shape.KeyOffset(page, head - args.q_heads, slot);
    to[pair] = __float2bfloat16(a * angle.x - b * angle.y);
    to[pair + half] = __float2bfloat16(b * angle.x + a * angle.y);
  }
}

}  // namespace

cudaError_t LaunchRopeStore(const RopeStoreArgs& args, cudaStream_t stream) {
  return Launch(RopeStoreKernel, dim3(static_cast<unsigned>(args.rows)), dim3(kThreads), stream,
                args);
}

}  // namespace nibble::cuda
