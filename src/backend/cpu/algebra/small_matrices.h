#pragma once

#include <cstdint>

namespace nibble::cpu {

// Dense algebra on matrices that fit in a core's cache, for which a general library spends much of
// its time on packing and dispatch. On the calling thread; run-time dispatched to the best vector
// unit, which changes no bit among those that fuse multiply-adds; allocates.

// Whether the one chosen fuses multiply-adds.
bool SmallMatricesFuse();

// Inputs of a layer, one a row: x [.., cols], of which `count` rows take part, in this order.
struct GramInputs {
  const float* x = nullptr;
  const int32_t* rows = nullptr;  // their indices, or null for 0, 1, 2, ...
  int64_t count = 0;
  int64_t cols = 0;
};

// H += X^T X, upper triangle only, H [cols, cols]. Adds share `part` of `parts`; the shares have
// about equal work, write to different rows of H and may run side by side. An element's sum does
// not depend on how many parts there are.
void AddSmallGram(const GramInputs& inputs, int part, int parts, float* h);

// GptqAlgebra::InverseCholesky of H [n, n] whose rows are `stride` floats apart.
int64_t SmallInverseCholesky(float* h, int64_t n, int64_t stride);

}  // namespace nibble::cpu
