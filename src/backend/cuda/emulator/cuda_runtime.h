#pragma once

// A stand-in for CUDA's header of this name, for tests: a .cu file that is compiled as plain C++
// with this folder in front of the include path runs on the host. It knows what our kernels use:
// blocks of one dimension, static shared memory, barriers, full-warp shuffles, integer atomics.
//
// A launch runs at once, one block after the other; the threads of a block are fibers that run in a
// random order from barrier to barrier, so that a missing barrier shows as a result that depends on
// the order. A barrier that only some threads reach, or a shuffle that only part of a warp takes
// part in, aborts with a message. What this cannot show: memory ordering, and anything about speed.

#include <math.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct float2 {
  float x, y;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace nibble::cuda::emulator {

// Calls `thread` once for each thread of each block.
void RunGrid(dim3 grid, dim3 block, const std::function<void()>& thread);

// Seeds the random order of threads. Runs with different seeds must give the same result.
void SetOrderSeed(uint64_t seed);

void WaitForBlock();
// Warp shuffle: every thread of the warp passes `value` and receives that of lane `lane`.
uint64_t Exchange(unsigned mask, uint64_t value, unsigned lane);
unsigned LaneIndex();

template <typename T>
T ExchangeAs(unsigned mask, T value, unsigned lane) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = Exchange(mask, bits, lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace nibble::cuda::emulator

inline void __syncthreads() { nibble::cuda::emulator::WaitForBlock(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  nibble::cuda::emulator::Exchange(mask, 0, 0);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return nibble::cuda::emulator::ExchangeAs(mask, value, static_cast<unsigned>(lane) % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  namespace emulator = nibble::cuda::emulator;
  return emulator::ExchangeAs(mask, value, emulator::LaneIndex() ^ static_cast<unsigned>(distance));
}
inline int atomicAdd(int* address, int value) {
  const int before = *address;
  *address += value;
  return before;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
using std::max;
using std::min;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3
};
using cudaStream_t = struct EmulatedStream*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  nibble::cuda::emulator::RunGrid(config->gridDim, config->blockDim, [&] { kernel(arguments...); });
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error of the emulator";
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaMemset(void* data, int byte, size_t bytes) {
  if (bytes > 0) std::memset(data, byte, bytes);
  return cudaSuccess;
}
