#pragma once

#include <cuda_runtime.h>

#include <type_traits>

namespace nibble::cuda {

// kernel<<<grid, block, 0, stream>>>(args...) as a function. Returns the error of the launch
// itself; errors while the kernel runs are reported by the stream. A grid of zero blocks is a
// no-op: an empty batch has no work.
template <typename... Parameters>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream,
                   std::type_identity_t<Parameters>... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace nibble::cuda
