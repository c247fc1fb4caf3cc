#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace nibble::cuda {

constexpr int32_t kBlockColumns = 128;

// Quantizes a block of columns one after the other and takes the error of each out of the columns
// behind it in the block: the sequential heart of GPTQ (quantize/gptq/sweep.h), symmetric 4-bit
// codes.
//   code = clamp(round(w / scale), -8, 7), ties to even;  error = (w - code * scale) / U_ii;
//   w_j -= error * U_ij for the columns j > i of the block
struct ColumnBlockArgs {
  const float* weights;  // [rows, cols]; columns [first, first + columns) are read
  const float* factor;   // U, [cols, cols], upper triangle
  const float* scales;   // [rows, cols / group_size], positive
  int8_t* codes;         // [rows, cols]; the block's columns are written
  float* errors;         // [rows, kBlockColumns]: for SpreadErrors; the first `columns` are written
  float* losses;         // [rows], += the block's sum of squared errors
  int64_t cols;
  int64_t first;
  int32_t rows;
  int32_t columns;  // at most kBlockColumns
  int32_t group_size;
};
cudaError_t LaunchColumnBlock(const ColumnBlockArgs& args, cudaStream_t stream);

// Reverses the order of `count` numbers: of an [n, n] matrix, both its rows and its columns.
cudaError_t LaunchReverse(float* values, int64_t count, cudaStream_t stream);

}  // namespace nibble::cuda
