// Rung 1: a block per row, a warp per head, a lane per 32nd pair. For int8 pages every pair is
// rotated twice, since the largest magnitude must be known before the first code is stored.
#include "backend/cuda/launch.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/rope.cuh"

namespace nibble::cuda {
namespace {

constexpr int kWarps = 4;

// The element pairs (i, i + head_dim / 2) of a head, rotated if it is a query or a key.
struct Pairs {
  const __nv_bfloat16* head;
  const float2* angles;  // null: not rotated (a value)
  int half;

  __device__ float2 At(int i) const {
    const float a = __bfloat162float(head[i]);
    const float b = __bfloat162float(head[i + half]);
    if (angles == nullptr) return {a, b};
    const float2 angle = angles[i];
    return {a * angle.x - b * angle.y, b * angle.x + a * angle.y};
  }
};

// The functions below are warp-collective.

__device__ void StoreBf16(const Pairs& from, __nv_bfloat16* to) {
  for (int i = static_cast<int>(threadIdx.x % 32); i < from.half; i += 32) {
    const float2 pair = from.At(i);
    to[i] = __float2bfloat16(pair.x);
    to[i + from.half] = __float2bfloat16(pair.y);
  }
}

__device__ void StoreInt8(const Pairs& from, int8_t* to, float* scale) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  // Magnitudes are compared as integers, where infinity and NaN are the largest.
  uint32_t largest = 0;
  for (int i = lane; i < from.half; i += 32) {
    const float2 pair = from.At(i);
    largest = max(largest, __float_as_uint(fabsf(pair.x)));
    largest = max(largest, __float_as_uint(fabsf(pair.y)));
  }
  largest = WarpReduce(largest, Larger());
  const bool finite = largest < __float_as_uint(INFINITY);
  const float step = __uint_as_float(largest) / 127.0f;
  const bool codes = finite && step >= 1e-37f;  // below that, 1 / step may overflow
  for (int i = lane; i < from.half; i += 32) {
    const float2 pair = from.At(i);
    to[i] = static_cast<int8_t>(codes ? rintf(pair.x / step) : 0.0f);
    to[i + from.half] = static_cast<int8_t>(codes ? rintf(pair.y / step) : 0.0f);
  }
  if (lane == 0) *scale = codes ? step : finite ? 0.0f : NAN;
}

__global__ void __launch_bounds__(kWarps * 32) RopeStoreKernel(RopeStoreArgs args) {
  const int64_t row = blockIdx.x;
  const PageShape& shape = args.shape;
  const int head_dim = shape.head_dim;
  const int half = head_dim / 2;
  const int rotated_heads = args.q_heads + shape.kv_heads;
  const int all_heads = rotated_heads + shape.kv_heads;
  const __nv_bfloat16* from = args.qkv + row * all_heads * head_dim;
  __nv_bfloat16* q = args.q + row * args.q_heads * head_dim;

  const int sequence = args.sequences[row];
  if (sequence == kPaddingRow) {
    for (int i = static_cast<int>(threadIdx.x); i < args.q_heads * head_dim; i += kWarps * 32) {
      q[i] = __float2bfloat16(0.0f);
    }
    return;
  }
  const int position = args.positions[row];
  const int slot = position % shape.page_tokens;
  const int64_t page = args.table.PageOf(sequence, position, shape.page_tokens);
  const float2* angles = args.cos_sin + static_cast<int64_t>(position) * half;

  for (int head = static_cast<int>(threadIdx.x / 32); head < all_heads; head += kWarps) {
    const Pairs pairs = {from + head * head_dim, head < rotated_heads ? angles : nullptr, half};
    if (head < args.q_heads) {
      StoreBf16(pairs, q + head * head_dim);
      continue;
    }
    // The heads of values follow those of keys, here as in a page.
    const int64_t offset = shape.KeyOffset(page, head - args.q_heads, slot);
    if (args.cache.scales == nullptr) {
      StoreBf16(pairs, static_cast<__nv_bfloat16*>(args.cache.elements) + offset);
    } else {
      StoreInt8(pairs, static_cast<int8_t*>(args.cache.elements) + offset,
                args.cache.scales + offset / head_dim);
    }
  }
}

}  // namespace

cudaError_t LaunchRopeStore(const RopeStoreArgs& args, cudaStream_t stream) {
  return Launch(RopeStoreKernel, dim3(static_cast<unsigned>(args.rows)), dim3(kWarps * 32), stream,
                args);
}

}  // namespace nibble::cuda
