#pragma once

#include <cstdint>

namespace nibble::cpu {

// Products of float matrices on matrix tiles of bfloat16 (Intel AMX), several times as fast as
// float multiply-adds. A float is exactly the sum of three bfloat16 of 8 bits each. Of the nine
// products of such parts the six that contribute to a float's 24 bits are summed, in float and in
// blocks of 32, so that the error is no larger than that of a plain sum of products.

// Whether the processor and the operating system support them; requests permission on the first
// call.
bool HasTileProducts();

// A factor. Its lines are the rows of A or the columns of B, its depth is what is summed over.
struct TileOperand {
  const float* data = nullptr;
  int64_t stride = 0;
  // Element (line, depth) is at depth * stride + line if true, else at line * stride + depth.
  bool depth_major = false;
  // Elements whose row in memory is larger than their column plus `upper_from` count as zeros and
  // are not read, as in an upper triangular matrix.
  bool upper = false;
  int64_t upper_from = 0;
};

struct TileTarget {
  float* data = nullptr;  // C [m, n]
  int64_t stride = 0;
  bool set = false;         // C = alpha A B, else C += alpha A B
  bool upper_only = false;  // leave the strict lower triangle alone; m = n
};

// On the calling thread, which keeps about a megabyte of scratch. Needs HasTileProducts().
void TileProduct(const TileOperand& a, const TileOperand& b, int64_t m, int64_t n, int64_t depth,
                 float alpha, const TileTarget& c);

}  // namespace nibble::cpu
