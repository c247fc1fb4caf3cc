// Rung 1: a block per row, which is read twice, the second time from L1.
#include "backend/cuda/launch.h"
#include "backend/cuda/norm.cuh"
#include "backend/cuda/reduce.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) AddRmsNormKernel(AddRmsNormArgs args) {
  const int64_t row = blockIdx.x;
  const int hidden = args.hidden;
  __nv_bfloat16* x = args.x + row * hidden;
  const float* pairs = args.pairs + row * args.pairs_per_row * hidden;

  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < hidden; i += kThreads) {
    float value = __bfloat162float(x[i]);
    if (args.pairs != nullptr) {
      for (int j = 0; j < args.pairs_per_row; ++j)
        value += pairs[static_cast<int64_t>(j) * hidden + i];
      x[i] = __float2bfloat16(value);
      value = __bfloat162float(x[i]);
    }
    squares += value * value;
  }
  const float mean = BlockSum<kThreads>(squares) / static_cast<float>(hidden);
  const float scale = rsqrtf(mean + args.eps);
  // The same elements as above: a thread reads what it wrote.
  for (int i = static_cast<int>(threadIdx.x); i < hidden; i += kThreads) {
    const float value = __bfloat162float(x[i]) * scale * __bfloat162float(args.weight[i]);
    args.normed[row * hidden + i] = __float2bfloat16(value);
  }
}

}  // namespace

cudaError_t LaunchAddRmsNorm(const AddRmsNormArgs& args, cudaStream_t stream) {
  return Launch(AddRmsNormKernel, dim3(static_cast<unsigned>(args.rows)), dim3(kThreads), stream,
                args);
}

}  // namespace nibble::cuda
