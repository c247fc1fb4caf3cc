#pragma once

#include <cstdint>

namespace nibble {

// The sequential heart of GPTQ: one block of columns of one chunk of rows. Data is transposed,
// column by column of the chunk, so that every step is a vector operation over rows.
struct SweepBlock {
  int64_t columns = 0;
  int64_t rows = 0;          // a multiple of kSweepRowMultiple
  float* weights = nullptr;  // [columns, rows], in: current weights; out: overwritten
  // Upper triangle of the block's [columns, columns] part of U, rows factor_stride apart; null:
  // plain rounding.
  const float* factor = nullptr;
  int64_t factor_stride = 0;
  const int32_t* groups = nullptr;     // [columns]: the group of each column
  const float* scales = nullptr;       // [num_groups, rows]
  const float* zero_points = nullptr;  // [num_groups, rows]
  float min_code = 0;
  float max_code = 0;
  int8_t* codes = nullptr;  // [columns, rows], out
  // [columns, rows], out: (weight - decoded) / U[i, i], to spread to the columns after the block.
  float* errors = nullptr;
  float* losses = nullptr;  // [rows], out: sum of the block's squared errors
};

// Rows of a chunk are padded to this.
constexpr int64_t kSweepRowMultiple = 64;

// Quantizes each column in turn and compensates its error in the columns after it inside the block.
// Run-time dispatched to the best vector unit; rows do not influence each other.
void Sweep(const SweepBlock& block);

}  // namespace nibble
