#include <cublas_v2.h>

#include "backend/cuda/cases/problem.h"
#include "backend/cuda/launch.h"
#include "bench/gpu/ceilings.cuh"
#include "bench/gpu/timing.h"

namespace nibble::cuda::bench {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    FillKernel(__nv_bfloat16* out, int64_t count, uint64_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    uint64_t z = (seed ^ static_cast<uint64_t>(i)) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    out[i] = __float2bfloat16(static_cast<float>(z >> 40) * 0x1p-23f - 1.0f);
  }
}

// Reads every word `rounds` times; a thread has four loads in flight.
__global__ void __launch_bounds__(kThreads)
    ReadKernel(const uint4* words, int64_t count, int rounds, unsigned* sink) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  unsigned sum = 0;
  for (int round = 0; round < rounds; ++round) {
    int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    for (; i + 3 * step < count; i += 4 * step) {
      const uint4 a = words[i];
      const uint4 b = words[i + step];
      const uint4 c = words[i + 2 * step];
      const uint4 d = words[i + 3 * step];
      sum += (a.x ^ a.y ^ a.z ^ a.w) + (b.x ^ b.y ^ b.z ^ b.w) + (c.x ^ c.y ^ c.z ^ c.w) +
             (d.x ^ d.y ^ d.z ^ d.w);
    }
    for (; i < count; i += step) sum += words[i].x ^ words[i].y ^ words[i].z ^ words[i].w;
  }
  if (sum == 0x12345678u) *sink = sum;  // so that the compiler keeps the loads
}

cudaError_t Read(const DeviceMemory& memory, int64_t bytes, int rounds, void* sink,
                 cudaStream_t stream) {
  return Launch(ReadKernel, dim3(132 * 16), dim3(kThreads), stream,
                static_cast<const uint4*>(memory.data()), bytes / 16, rounds,
                static_cast<unsigned*>(sink));
}

}  // namespace

cudaError_t LaunchFill(__nv_bfloat16* out, int64_t count, uint64_t seed, cudaStream_t stream) {
  return Launch(FillKernel, dim3(132 * 16), dim3(kThreads), stream, out, count, seed);
}

Ceilings MeasureCeilings(int64_t l2_bytes, cudaStream_t stream) {
  Ceilings result;
  constexpr int64_t kBytes = int64_t{2} << 30;
  DeviceMemory from(kBytes);
  DeviceMemory to(kBytes);
  DeviceMemory sink(4);
  LaunchFill(static_cast<__nv_bfloat16*>(from.data()), kBytes / 2, 1, stream);
  const double copy = MedianSeconds(stream, 20, [&] {
    return cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream);
  });
  result.copy_bytes_per_second = 2.0 * kBytes / copy;
  const double read =
      MedianSeconds(stream, 20, [&] { return Read(from, kBytes, 1, sink.data(), stream); });
  result.read_bytes_per_second = kBytes / read;
  constexpr int kRounds = 100;
  const int64_t quarter = l2_bytes / 4 / 16 * 16;
  const double l2 =
      MedianSeconds(stream, 20, [&] { return Read(from, quarter, kRounds, sink.data(), stream); });
  result.l2_bytes_per_second = static_cast<double>(quarter) * kRounds / l2;

  constexpr int kSize = 8192;
  auto* a = static_cast<__nv_bfloat16*>(from.data());
  auto* b = a + int64_t{kSize} * kSize;
  auto* c = static_cast<__nv_bfloat16*>(to.data());
  const float one = 1;
  const float zero = 0;
  cublasHandle_t handle = nullptr;
  cublasCreate(&handle);
  cublasSetStream(handle, stream);
  const double product = MedianSeconds(stream, 20, [&] {
    return cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, kSize, kSize, kSize, &one, a, CUDA_R_16BF,
                        kSize, b, CUDA_R_16BF, kSize, &zero, c, CUDA_R_16BF, kSize,
                        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS
               ? cudaSuccess
               : cudaErrorUnknown;
  });
  cublasDestroy(handle);
  result.bf16_flops = 2.0 * kSize * kSize * kSize / product;
  return result;
}

}  // namespace nibble::cuda::bench
