#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/gptq_algebra.h"
#include "base/math.h"
#include "quantize/gptq/gptq.h"
#include "quantize/gptq/grid.h"
#include "quantize/gptq/hessian_factor.h"
#include "quantize/recipe.h"
#include "tensor/packed.h"

namespace nibble {

// Quantizes one Linear: independent chunks of rows, each swept column by column. Borrows all
// arguments.
class LinearSolver {
 public:
  // `factor` is null for rounding to nearest without a Hessian. Throws kUnsupported if the group
  // size does not divide the columns.
  LinearSolver(const Recipe& recipe, DType scale_dtype, const DenseLinear& linear,
               const HessianFactor* factor);

  // Memory of MeasureRounding, and of a chunk, which its thread keeps for the chunks to come.
  static int64_t MeasureBytes(int64_t rows, int64_t cols);
  static int64_t ChunkBytes(const Recipe& recipe, int64_t rows, int64_t cols);

  // The error of rounding to nearest and the energy of the output, on sampled rows. Before
  // Factor().
  void MeasureRounding(GptqAlgebra& algebra);

  int64_t num_chunks() const { return CeilDiv(rows_, chunk_rows_); }
  // Chunks may run in parallel. `use_factor`: GPTQ, else rounding. Throws kInvalidData naming the
  // place of a weight that is not finite.
  void SolveChunk(int64_t chunk, bool use_factor, GptqAlgebra& algebra);

  // After all chunks.
  QuantizedLinear Finish(bool used_factor, int64_t tokens, double seconds);

 private:
  // Rows [first, first + count) as floats, checked to be finite.
  void ReadRows(int64_t first, int64_t count, float* out) const;
  // The grids of one row, by group; `ordered` is scratch [cols].
  void ObserveRow(const float* row, float* ordered, Grid* grids) const;
  // One row in the checkpoint's order, from its codes and the grids of its groups.
  void DecodeRow(const int8_t* codes, const Grid* grids, float* out) const;
  void StoreGrids(int64_t row, std::span<const Grid> grids);

  const Recipe* recipe_;
  DType scale_dtype_;
  const DenseLinear* linear_;
  const HessianFactor* factor_;
  int64_t rows_, cols_, group_size_, num_groups_, chunk_rows_;
  std::vector<int32_t> order_;     // of the sweep
  std::vector<int32_t> group_at_;  // by sweep position
  std::vector<int32_t> group_of_;  // by column
  std::vector<int32_t> dead_columns_;
  std::vector<float> importance_;  // by column, for imatrix_mse
  PackedTensor packed_;
  std::vector<int8_t> zero_points_;    // [rows, groups]
  std::vector<double> losses_;         // [rows] sum of squared sweep errors
  std::vector<double> output_errors_;  // [rows] D H D^T, known if the factor was used
  std::vector<double> weight_errors_;  // [rows] |D|^2
  std::vector<double> weight_norms_;   // [rows] |W|^2
  double sampled_energy_ = 0;          // sum of W H W^T over sampled rows
  double sampled_rounding_ = 0;        // the same of the rounding errors
};

}  // namespace nibble
