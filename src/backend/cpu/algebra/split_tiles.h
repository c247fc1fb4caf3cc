#pragma once

#include <cstdint>

#include "backend/cpu/algebra/split_product.h"

// The AMX kernels of split_product_amx.cc. Matrices are packed into panels of kTileLines lines; a
// panel is a sequence of steps of kTileDepth, a step three tiles of bfloat16, one for each part of
// the floats.
namespace nibble::cpu {

constexpr int64_t kTileLines = 16;
constexpr int64_t kTileDepth = 32;
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kStepBytes = 3 * kTileBytes;
constexpr int64_t kPairLines = 2 * kTileLines;  // of two panels

void StartTiles();  // call it on each thread before any of the others
void StopTiles();

// Lines [first_line, + lines) and depths [first, + depth) of a factor, zeros up to whole tiles. The
// tiles of a left factor have a line a row; those of a right one a line a column.
void PackTiles(const TileOperand& from, int64_t first_line, int64_t lines, int64_t first,
               int64_t depth, bool left, char* to);

// sums[kPairLines, kPairLines] = the product of two panels with two others, `steps` long (none: 0).
void MultiplyTiles(const char* a0, const char* a1, const char* b0, const char* b1, int64_t steps,
                   float* sums);

// C[rows, cols] (+)= alpha sums, without the elements whose column is below row + `skip`.
void AddSums(const float* sums, int64_t rows, int64_t cols, int64_t skip, float alpha, bool set,
             float* c, int64_t stride);

// Prefetches C[rows, cols].
void PrefetchTarget(const float* c, int64_t rows, int64_t cols, int64_t stride);

}  // namespace nibble::cpu
