#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

// What the device can do at most, measured in the same run as the kernels that are compared with
// it.
namespace nibble::cuda::bench {

struct Ceilings {
  double copy_bytes_per_second = 0;  // device to device, bytes read and written
  double read_bytes_per_second = 0;  // a sum over memory far larger than the caches
  double l2_bytes_per_second = 0;    // the same over a quarter of the L2, again and again
  double bf16_flops = 0;  // cuBLAS, 8192 x 8192 x 8192, random numbers (zeros run faster)
};

// Takes a few seconds and 6 GB. `l2_bytes` is the device's.
Ceilings MeasureCeilings(int64_t l2_bytes, cudaStream_t stream);

// out[i] is uniform in [-1, 1), from a hash of seed and i.
cudaError_t LaunchFill(__nv_bfloat16* out, int64_t count, uint64_t seed, cudaStream_t stream);

}  // namespace nibble::cuda::bench
