#pragma once

#include <cstdint>
#include <span>

#include "quantize/recipe.h"
#include "tensor/dtype.h"

namespace nibble {

// The integer grid of one group of weights: value = (code - zero_point) * scale.
struct Grid {
  float scale = 1;       // positive, exactly representable in the checkpoint's 16-bit type
  float zero_point = 0;  // an integer in [min_code, max_code]
};

// Chooses the grid of one group from its weights.
//   minmax       absmax / 7.5 (4 bits, symmetric): the grid that spans the group
//   mse          shrinks that range in 20 steps of 1 % and keeps what minimises sum |error|^2.4
//   imatrix_mse  the same in steps of 5 % with sum importance |error|^3; `importance` is
//                proportional to E[x^2] of each input
// The range always contains zero; a group of zeros gets the type's epsilon as its scale. Scales are
// rounded to `scale_dtype` (BF16 or F16) at once, so that errors are measured against the grid that
// is stored. Source: docs/formats.md#scales.
Grid ObserveGroup(const Recipe& recipe, DType scale_dtype, std::span<const float> weights,
                  std::span<const float> importance);

// The code of `weight` on the grid, as a whole float: clamp(weight / scale + zero point), then
// round half to even.
float QuantizeOne(const Recipe& recipe, const Grid& grid, float weight);

}  // namespace nibble
