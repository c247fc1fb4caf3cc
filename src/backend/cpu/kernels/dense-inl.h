#pragma once

#include "backend/cpu/kernels/simd.h"
#include "backend/cpu/kernels/table.h"
#include "base/math.h"

// Dense weights: an outer product held in registers, 16 weight rows a vector by a few activation
// rows, summed over the columns in order.
namespace nibble::cpu {

template <typename Isa>
NIBBLE_INLINE typename Isa::F LoadWeights(const float* w) {
  return Isa::Load(w);
}
template <typename Isa>
NIBBLE_INLINE typename Isa::F LoadWeights(const uint16_t* w) {
  return Isa::LoadBf16(w);
}

// Spreads prefetches evenly over the columns. Many at once would fill the line fill buffers and
// stall loads.
struct EvenAhead : Ahead {
  int64_t every;  // columns

  EvenAhead(const void* data, int64_t bytes, int64_t columns) {
    Plan(data, bytes, columns);
    every = columns > bytes / 64 ? columns * 64 / bytes : 1;
  }
};

// sums[i][v] = Σ_k w[k * stride + 16 v ..] * x[i][k], from zero, k in order.
template <typename Isa, int kTokens, int kVectors, typename W>
NIBBLE_INLINE void OuterProduct(const W* w, int64_t stride, const float* const* x, int64_t offset,
                                int64_t count, EvenAhead& ahead,
                                typename Isa::F (&sums)[kTokens][kVectors]) {
  const float* rows[kTokens];
  NIBBLE_UNROLL
  for (int i = 0; i < kTokens; ++i) {
    rows[i] = x[i] + offset;
    NIBBLE_UNROLL
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Isa::Zero();
  }
  int64_t wait = 1;
  for (int64_t k = 0; k < count; ++k) {
    if (--wait == 0) {
      ahead.Advance();
      wait = ahead.every;
    }
    typename Isa::F weights[kVectors];
    NIBBLE_UNROLL
    for (int v = 0; v < kVectors; ++v) weights[v] = LoadWeights<Isa>(w + k * stride + 16 * v);
    NIBBLE_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      const auto value = Isa::Set(rows[i][k]);
      NIBBLE_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        sums[i][v] = Isa::Fma(weights[v], value, sums[i][v]);
      }
    }
  }
}

// Calls op.template Run<n>(i) for rows i, i + 1, ... in batches (runs) of kMax rows, the last two
// equally long if the last would be short, since a batch of one row costs nearly as much as one of
// three. The loop instantiates only the longest batch: with the others in it compilers spill
// registers.
template <int kMax, typename Op>
NIBBLE_INLINE void ForRuns(int64_t count, const Op& op) {
  int64_t i = 0;
  for (; count - i == kMax || count - i >= 2 * kMax - 1; i += kMax) op.template Run<kMax>(i);
  while (i < count) {
    const int64_t rest = count - i;
    const int64_t run = rest > kMax ? CeilDiv(rest, 2) : rest;
    switch (run) {  // a case above kMax - 1 is never reached; it must only compile
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
      default:
        op.template Run<(kMax > 5 ? 5 : 1)>(i);
        break;
    }
    i += run;
  }
}

// One block of a tile against all rows: totals += block sums.
template <typename Isa, typename W>
struct DenseBlock {
  const W* w;  // [count][64]
  int64_t count;
  const float* const* x;
  int64_t offset;    // column of x that the block starts with
  float* totals;     // [rows][64]
  EvenAhead& ahead;  // weights needed next
  // Each tile prefetches its share of the next block's activations: every x_step-th line from
  // x_line on.
  int64_t x_line;
  int64_t x_step;

  template <int kTokens>
  NIBBLE_INLINE void Run(int64_t row) const {
    constexpr int64_t kLine = 16;  // floats
    for (int64_t line = x_line; line < kDenseBlock / kLine; line += x_step) {
      NIBBLE_UNROLL
      for (int i = 0; i < kTokens; ++i) {
        __builtin_prefetch(x[row + i] + offset + kDenseBlock + line * kLine, 0, 2);
      }
    }
    constexpr int kVectors = Isa::FloatVectors(kTokens);
    for (int64_t r = 0; r < kTileRows; r += 16 * kVectors) {
      typename Isa::F sums[kTokens][kVectors];
      OuterProduct<Isa, kTokens, kVectors>(w + r, kTileRows, x + row, offset, count, ahead, sums);
      NIBBLE_UNROLL
      for (int i = 0; i < kTokens; ++i) {
        NIBBLE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          float* const total = totals + (row + i) * kTileRows + r + 16 * v;
          Isa::Store(total, Isa::Add(Isa::Load(total), sums[i][v]));
        }
      }
    }
  }
};

template <typename Isa, typename W>
void DenseTilesOf(const DenseTiles& tiles, const float* const* x, int64_t num_rows, float* sums,
                  float* widened) {
  constexpr bool kWiden = sizeof(W) < sizeof(float);
  const auto weights = [&](int tile, int64_t column) {
    return static_cast<const W*>(tiles.tile[tile]) + column * kTileRows;
  };
  const bool few = num_rows <= 2 * Isa::kFloatTokens;  // not worth widening for
  const int64_t runs = CeilDiv(num_rows, Isa::kFloatTokens);
  for (int64_t k = 0; k < tiles.cols; k += kDenseBlock) {
    const int64_t count = tiles.cols - k < kDenseBlock ? tiles.cols - k : kDenseBlock;
    for (int t = 0; t < tiles.count; ++t) {
      float* const totals = sums + t * num_rows * kTileRows;
      const W* const w = weights(t, k);
      const W* const next = t + 1 < tiles.count ? weights(t + 1, k) : weights(0, k + kDenseBlock);
      EvenAhead ahead(next, count * kTileRows * static_cast<int64_t>(sizeof(W)), runs * count);
      if (few) {
        ForRuns<Isa::kFloatTokens>(
            num_rows, DenseBlock<Isa, W>{w, count, x, k, totals, ahead, kDenseBlock, 1});
        continue;
      }
      const float* wide = nullptr;
      if constexpr (kWiden) {  // once for all rows
        for (int64_t i = 0; i < count * kTileRows; i += 16) {
          Isa::Store(widened + i, LoadWeights<Isa>(w + i));
        }
        wide = widened;
      } else {
        wide = w;
      }
      ForRuns<Isa::kFloatTokens>(
          num_rows, DenseBlock<Isa, float>{wide, count, x, k, totals, ahead, t, tiles.count});
    }
  }
}

template <typename Isa>
void DenseTilesKernel(const DenseTiles& tiles, const float* const* x, int64_t num_rows, float* sums,
                      void* scratch) {
  __builtin_memset(sums, 0,
                   static_cast<size_t>(tiles.count * num_rows * kTileRows) * sizeof(float));
  float* const widened = static_cast<float*>(scratch);
  if (tiles.bf16) {
    DenseTilesOf<Isa, uint16_t>(tiles, x, num_rows, sums, widened);
  } else {
    DenseTilesOf<Isa, float>(tiles, x, num_rows, sums, widened);
  }
}

}  // namespace nibble::cpu
