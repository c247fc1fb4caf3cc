// Rung 1: a thread a row, its block of weights in shared memory; U comes from L1, where all threads
// read the same element at the same time (a broadcast).
#include "backend/cuda/column_block.cuh"
#include "backend/cuda/launch.h"

namespace nibble::cuda {
namespace {

constexpr int kRows = 64;      // of a block of threads
constexpr int kThreads = 256;  // of the reversal

__global__ void __launch_bounds__(kRows) ColumnBlockKernel(ColumnBlockArgs args) {
  __shared__ float weights[kRows][kBlockColumns + 1];  // padded against bank conflicts
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kRows), args.rows - first_row));
  for (int i = thread; i < rows * args.columns; i += kRows) {
    const int r = i / args.columns;
    const int c = i % args.columns;
    weights[r][c] = args.weights[(first_row + r) * args.cols + args.first + c];
  }
  __syncthreads();
  if (thread >= rows) return;

  const int64_t row = first_row + thread;
  const float* scales = args.scales + row * (args.cols / args.group_size);
  float* w = weights[thread];
  float loss = 0;
  for (int i = 0; i < args.columns; ++i) {
    const int64_t col = args.first + i;
    const float* factor = args.factor + col * args.cols + args.first;  // the block's part of a row
    const float scale = scales[col / args.group_size];
    const float code = fminf(fmaxf(rintf(w[i] / scale), -8.0f), 7.0f);
    const float error = (w[i] - code * scale) / factor[i];
    args.codes[row * args.cols + col] = static_cast<int8_t>(code);
    args.errors[row * kBlockColumns + i] = error;
    loss += error * error;
    for (int j = i + 1; j < args.columns; ++j) w[j] -= error * factor[j];
  }
  args.losses[row] += loss;
}

__global__ void __launch_bounds__(kThreads) ReverseKernel(float* values, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count / 2) return;
  const float value = values[i];
  values[i] = values[count - 1 - i];
  values[count - 1 - i] = value;
}

}  // namespace

cudaError_t LaunchColumnBlock(const ColumnBlockArgs& args, cudaStream_t stream) {
  if (args.columns > kBlockColumns) return cudaErrorInvalidValue;
  return Launch(ColumnBlockKernel, dim3(static_cast<unsigned>((args.rows + kRows - 1) / kRows)),
                dim3(kRows), stream, args);
}

cudaError_t LaunchReverse(float* values, int64_t count, cudaStream_t stream) {
  const int64_t blocks = (count / 2 + kThreads - 1) / kThreads;
  return Launch(ReverseKernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), stream, values,
                count);
}

}  // namespace nibble::cuda
