#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace nibble::cuda {

// Sums whose order is fixed by the thread's index: the same bits in every run. Every thread of the
// warp or block calls, and every thread gets the sum.
template <typename T>
__device__ inline T WarpSum(T value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// kThreads is the size of the block, a multiple of 32.
template <int kThreads, typename T>
__device__ T BlockSum(T value) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  __shared__ T of_warp[kThreads / 32];
  value = WarpSum(value);
  __syncthreads();  // whoever read the sums of an earlier call has done so
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = of_warp[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) sum += of_warp[warp];
  return sum;
}

}  // namespace nibble::cuda
