#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace nibble::cuda {

// Reductions whose order is fixed by the threads' indices: the same bits in every run. Every thread
// of the warp or block calls, and every thread gets the result. `combine` is associative and
// commutative up to rounding.
template <typename T, typename Combine>
__device__ inline T WarpReduce(T value, Combine combine) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}

// kThreads is the size of the block, a multiple of 32.
template <int kThreads, typename T, typename Combine>
__device__ T BlockReduce(T value, Combine combine) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  __shared__ T of_warp[kThreads / 32];
  value = WarpReduce(value, combine);
  __syncthreads();  // all threads have read the results of an earlier call
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  T result = of_warp[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) result = combine(result, of_warp[warp]);
  return result;
}

struct Plus {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

template <typename T>
__device__ inline T WarpSum(T value) {
  return WarpReduce(value, Plus());
}
template <int kThreads, typename T>
__device__ T BlockSum(T value) {
  return BlockReduce<kThreads>(value, Plus());
}

}  // namespace nibble::cuda
