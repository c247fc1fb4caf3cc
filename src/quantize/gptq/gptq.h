#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/gptq_algebra.h"
#include "nibble/quantize.h"
#include "quantize/recipe.h"
#include "tensor/packed.h"

namespace nibble {

// A dense Linear [rows, cols] in BF16, F16 or F32. Borrows the weight.
struct DenseLinear {
  std::string module;
  TensorView weight;
};

struct QuantizedLinear {
  PackedTensor packed;
  LinearReport report;
};

// Quantizes the Linears that read one input, by GPTQ: column by column, with each column's rounding
// error spread over the remaining columns so that the outputs change least.
//
//   h            [cols, cols], upper triangle: X^T X over the `tokens` inputs seen in calibration;
//                overwritten
//   scale_dtype  BF16 or F16
//
// A Hessian that cannot be factored is damped more (max(2 d, 0.01), five times), then its Linears
// are rounded to nearest; the reports say so. Inputs that were zero in every token have no
// influence and keep their rounding to nearest. Throws kInvalidData naming the module and position
// of a non-finite weight, or of a non-finite element of H; kUnsupported if the group size does not
// divide the columns.
//
// Works on algebra's threads; the result does not depend on their number. May be called from an
// algebra.threads().ParallelFor body. Source: arXiv 2210.17323, and llm-compressor's GPTQModifier
// for the order of steps.
std::vector<QuantizedLinear> QuantizeWithHessian(const Recipe& recipe, DType scale_dtype,
                                                 std::span<const DenseLinear> linears, float* h,
                                                 int64_t tokens, GptqAlgebra& algebra);

// The same without calibration: every weight to the nearest point of its group's grid.
std::vector<QuantizedLinear> RoundToNearest(const Recipe& recipe, DType scale_dtype,
                                            std::span<const DenseLinear> linears,
                                            GptqAlgebra& algebra);

// Memory that either takes beside h and the results, for Linears [rows, cols]. RoundToNearest takes
// only a part of it.
int64_t SolverBytes(const Recipe& recipe, int64_t rows, int64_t cols, GptqAlgebra& algebra);

}  // namespace nibble
