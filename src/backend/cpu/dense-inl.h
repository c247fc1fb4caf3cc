#pragma once

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

// Dense weights: an outer product held in registers, kRowVectors x 16 weight rows by up to
// kFloatTokens activation rows, summed over the columns in order.
namespace nibble::cpu {

template <typename Isa>
NIBBLE_INLINE typename Isa::F LoadWeights(const float* w) {
  return Isa::Load(w);
}
template <typename Isa>
NIBBLE_INLINE typename Isa::F LoadWeights(const uint16_t* w) {
  return Isa::LoadBf16(w);
}

// sums[i][v] = Σ_k w[k * stride + 16 v ..] * x[i][k], from zero, k in order.
template <typename Isa, int kTokens, typename W>
NIBBLE_INLINE void OuterProduct(const W* w, int64_t stride, const float* const* x, int64_t offset,
                                int64_t count, typename Isa::F (&sums)[kTokens][Isa::kRowVectors]) {
  const float* rows[kTokens];
  NIBBLE_UNROLL
  for (int i = 0; i < kTokens; ++i) {
    rows[i] = x[i] + offset;
    NIBBLE_UNROLL
    for (int v = 0; v < Isa::kRowVectors; ++v) sums[i][v] = Isa::Zero();
  }
  for (int64_t k = 0; k < count; ++k) {
    typename Isa::F weights[Isa::kRowVectors];
    NIBBLE_UNROLL
    for (int v = 0; v < Isa::kRowVectors; ++v)
      weights[v] = LoadWeights<Isa>(w + k * stride + 16 * v);
    NIBBLE_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      const auto value = Isa::Set(rows[i][k]);
      NIBBLE_UNROLL
      for (int v = 0; v < Isa::kRowVectors; ++v) {
        sums[i][v] = Isa::Fma(weights[v], value, sums[i][v]);
      }
    }
  }
}

// Calls op.template Run<n>(i) for rows i, i + 1, ... in runs of n <= kMax until `count` are done.
template <int kMax, typename Op>
NIBBLE_INLINE void ForRuns(int64_t count, const Op& op) {
  int64_t i = 0;
  for (; i + kMax <= count; i += kMax) op.template Run<kMax>(i);
  switch (count - i) {  // a case above kMax - 1 is never reached; it must only compile
    case 1:
      op.template Run<1>(i);
      break;
    case 2:
      op.template Run<(kMax > 2 ? 2 : 1)>(i);
      break;
    case 3:
      op.template Run<(kMax > 3 ? 3 : 1)>(i);
      break;
    case 4:
      op.template Run<(kMax > 4 ? 4 : 1)>(i);
      break;
    case 5:
      op.template Run<(kMax > 5 ? 5 : 1)>(i);
      break;
    default:
      break;
  }
}

// One block of a tile against all rows: totals += block sums.
template <typename Isa, typename W>
struct DenseBlock {
  const W* w;  // [count][64]
  int64_t count;
  const float* const* x;
  int64_t offset;  // column of x that the block starts with
  float* totals;   // [rows][64]

  template <int kTokens>
  NIBBLE_INLINE void Run(int64_t row) const {
    for (int64_t r = 0; r < kTileRows; r += 16 * Isa::kRowVectors) {
      typename Isa::F sums[kTokens][Isa::kRowVectors];
      OuterProduct<Isa, kTokens>(w + r, kTileRows, x + row, offset, count, sums);
      NIBBLE_UNROLL
      for (int i = 0; i < kTokens; ++i) {
        NIBBLE_UNROLL
        for (int v = 0; v < Isa::kRowVectors; ++v) {
          float* const total = totals + (row + i) * kTileRows + r + 16 * v;
          Isa::Store(total, Isa::Add(Isa::Load(total), sums[i][v]));
        }
      }
    }
  }
};

template <typename Isa>
void DenseTilesKernel(const DenseTiles& tiles, const float* const* x, int64_t num_rows, float* sums,
                      void* scratch) {
  float* const widened = static_cast<float*>(scratch);
  __builtin_memset(sums, 0,
                   static_cast<size_t>(tiles.count * num_rows * kTileRows) * sizeof(float));
  for (int64_t k = 0; k < tiles.cols; k += kDenseBlock) {
    const int64_t count = tiles.cols - k < kDenseBlock ? tiles.cols - k : kDenseBlock;
    for (int t = 0; t < tiles.count; ++t) {
      float* const totals = sums + t * num_rows * kTileRows;
      if (!tiles.bf16) {
        const float* const w = static_cast<const float*>(tiles.tile[t]) + k * kTileRows;
        ForRuns<Isa::kFloatTokens>(num_rows, DenseBlock<Isa, float>{w, count, x, k, totals});
        continue;
      }
      const uint16_t* const w = static_cast<const uint16_t*>(tiles.tile[t]) + k * kTileRows;
      if (num_rows <= Isa::kFloatTokens) {
        ForRuns<Isa::kFloatTokens>(num_rows, DenseBlock<Isa, uint16_t>{w, count, x, k, totals});
      } else {  // widen once for all rows
        for (int64_t i = 0; i < count * kTileRows; i += 16) {
          Isa::Store(widened + i, Isa::LoadBf16(w + i));
        }
        ForRuns<Isa::kFloatTokens>(num_rows, DenseBlock<Isa, float>{widened, count, x, k, totals});
      }
    }
  }
}

}  // namespace nibble::cpu
