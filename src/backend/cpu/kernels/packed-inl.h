#pragma once

#include "backend/cpu/kernels/dense-inl.h"
#include "backend/cpu/kernels/simd.h"
#include "backend/cpu/kernels/table.h"
#include "base/math.h"

// Packed weights against activations in fixed point of one or two int8 planes. For each block the
// integer sum
//
//   Σ_k (code - zero) * x  =  256 Σ code * high + Σ code * low - zero * Σ x
//
// (or with a single plane Σ code * x - zero * Σ x) is exact; then total += (weight scale *
// activation scale) * float(sum), blocks in order. So neither the instruction set nor the number of
// rows at once can change a bit of the result.
namespace nibble::cpu {

// One block of one tile against rows of fixed-point activations. kPlanes is the number of nibble
// planes, kParts that of activation planes; kSteps the number of 8-column steps, or 0 if it is only
// known at run time (num_steps).
template <typename Isa, int kPlanes, int kParts, int kSteps>
struct PackedBlock {
  using F = typename Isa::F;
  using I = typename Isa::I;
  using B = typename Isa::B;

  const uint8_t* codes;  // as PackedFormat describes, or unpacked: [planes][2 steps][64 rows][4]
  int64_t num_steps;
  const F* scales;  // [4]
  const I* zeros;   // [4], or null if every zero point is the middle
  const int8_t* x;  // [rows][kParts][8 steps]
  const float* x_scales;
  const int32_t* x_sums;
  float* totals;       // [rows][64]
  Ahead* ahead_codes;  // prefetches the next block of weights, and activations of the next block
  Ahead* ahead_x;

  NIBBLE_INLINE int64_t steps() const { return kSteps > 0 ? kSteps : num_steps; }

  template <int kTokens, int kVectors, int kBits>
  static NIBBLE_INLINE void Shift(I (&sums)[kTokens][kVectors]) {
    NIBBLE_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      NIBBLE_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Isa::template ShiftLeft<kBits>(sums[i][v]);
    }
  }

  // sums[i][v] += unpacked codes * one plane of the activations. The loops are ordered so that
  // weights, sums and one activation fill the registers.
  template <int kTokens, int kVectors>
  NIBBLE_INLINE void DotUnpacked(const uint8_t* w, const int8_t* plane,
                                 I (&sums)[kTokens][kVectors]) const {
    const int64_t token_stride = kParts * 8 * steps();
    for (int64_t step = 0; step < steps(); ++step) {
      if constexpr (Isa::kPairedDot) {
        NIBBLE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          const B first = Isa::LoadB(w + step * 512 + v * 64);
          const B second = Isa::LoadB(w + step * 512 + 256 + v * 64);
          NIBBLE_UNROLL
          for (int i = 0; i < kTokens; ++i) {
            sums[i][v] =
                Isa::DotPair(sums[i][v], first, second, plane + i * token_stride + step * 8);
          }
        }
      } else {
        NIBBLE_UNROLL
        for (int half = 0; half < 2; ++half) {
          B bytes[kVectors];
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            bytes[v] = Isa::LoadB(w + step * 512 + half * 256 + v * 64);
          }
          NIBBLE_UNROLL
          for (int i = 0; i < kTokens; ++i) {
            NIBBLE_UNROLL
            for (int v = 0; v < kVectors; ++v) {
              sums[i][v] =
                  Isa::Dot(sums[i][v], bytes[v], plane + i * token_stride + step * 8 + half * 4);
            }
          }
        }
      }
    }
  }

  // total += weight scale * activation scale * (sum - zero * Σ x).
  template <int kTokens, int kVectors>
  NIBBLE_INLINE void Finish(int64_t row, int64_t r, const I (&sums)[kTokens][kVectors]) const {
    NIBBLE_UNROLL
    for (int i = 0; i < kTokens; ++i) {
      const int32_t x_sum = x_sums[row + i];
      const I centre = Isa::SetI(x_sum * (kPlanes == 1 ? -8 : -128));
      const F x_scale = Isa::Set(x_scales[row + i]);
      NIBBLE_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const I bias = zeros == nullptr ? centre : Isa::MulI(zeros[r / 16 + v], Isa::SetI(-x_sum));
        const F sum = Isa::ToFloat(Isa::AddI(sums[i][v], bias));
        float* const total = totals + (row + i) * kTileRows + r + 16 * v;
        Isa::Store(total, Isa::Fma(Isa::Mul(scales[r / 16 + v], x_scale), sum, Isa::Load(total)));
      }
    }
  }

  // Many rows, with codes unpacked beforehand. Horner's scheme over the planes: 256 high + low, and
  // for 8-bit codes ((16 hh + lh) 16 + hl) 16 + ll, the code's nibble named first.
  template <int kTokens>
  NIBBLE_INLINE void Run(int64_t row) const {
    ahead_codes->Advance();
    ahead_x->Advance();
    const int8_t* const high = x + row * kParts * 8 * steps();
    const int8_t* const low = high + 8 * steps();
    constexpr int kVectors = Isa::IntVectors(kTokens);
    for (int64_t r = 0; r < kTileRows; r += 16 * kVectors) {
      const uint8_t* const w = codes + 4 * r;
      I sums[kTokens][kVectors];
      NIBBLE_UNROLL
      for (int i = 0; i < kTokens; ++i) {
        NIBBLE_UNROLL
        for (int v = 0; v < kVectors; ++v) sums[i][v] = Isa::ZeroI();
      }
      DotUnpacked<kTokens, kVectors>(w, high, sums);
      const uint8_t* const low_nibbles = w + 512 * steps();
      if constexpr (kPlanes == 2) {
        Shift<kTokens, kVectors, 4>(sums);
        DotUnpacked<kTokens, kVectors>(low_nibbles, high, sums);
      }
      if constexpr (kParts == 2) {
        Shift<kTokens, kVectors, 8 / kPlanes>(sums);
        DotUnpacked<kTokens, kVectors>(w, low, sums);
        if constexpr (kPlanes == 2) {
          Shift<kTokens, kVectors, 4>(sums);
          DotUnpacked<kTokens, kVectors>(low_nibbles, low, sums);
        }
      }
      Finish<kTokens, kVectors>(row, r, sums);
    }
  }
};

// Few rows: 4-bit codes are unpacked in registers, once for both planes of the activations. Speed
// is bound by memory bandwidth, so each step prefetches the same position one block ahead: in the
// next block, or at a tile's end in the following tile. With several batches of rows each
// prefetches a part.
template <typename Isa, int kParts, int kSteps, bool kAlone>
struct DirectBlock : PackedBlock<Isa, 1, kParts, kSteps> {
  using Base = PackedBlock<Isa, 1, kParts, kSteps>;
  using I = typename Isa::I;
  using B = typename Isa::B;

  int64_t block_bytes;
  int64_t num_rows;

  template <int kTokens>
  NIBBLE_INLINE void Run(int64_t row) const {
    const int64_t steps = this->steps();
    const int64_t runs = CeilDiv(num_rows, Isa::kDirectTokens);
    int64_t wait = row * runs / num_rows;
    const int8_t* const values = this->x + row * kParts * 8 * steps;
    constexpr int kVectors = Isa::DirectVectors(kTokens);
    for (int64_t r = 0; r < kTileRows; r += 16 * kVectors) {
      const uint8_t* const w = this->codes + 4 * r;
      I high[kTokens][kVectors];
      I low[kTokens][kVectors];
      NIBBLE_UNROLL
      for (int i = 0; i < kTokens; ++i) {
        NIBBLE_UNROLL
        for (int v = 0; v < kVectors; ++v) high[i][v] = low[i][v] = Isa::ZeroI();
      }
      for (int64_t step = 0; step < steps; ++step) {
        if (kAlone || wait == 0) {
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            __builtin_prefetch(w + step * 256 + v * 64 + block_bytes, 0, 3);
          }
          wait = runs;
        }
        if constexpr (!kAlone) --wait;
        NIBBLE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          const B both = Isa::LoadB(w + step * 256 + v * 64);
          const B first = Isa::LowNibbles(both);
          const B second = Isa::HighNibbles(both);
          NIBBLE_UNROLL
          for (int i = 0; i < kTokens; ++i) {
            const int8_t* const high_x = values + i * kParts * 8 * steps + step * 8;
            high[i][v] = Isa::DotPair(high[i][v], first, second, high_x);
            if constexpr (kParts == 2) {
              low[i][v] = Isa::DotPair(low[i][v], first, second, high_x + 8 * steps);
            }
          }
        }
      }
      if constexpr (kParts == 2) {
        Base::template Shift<kTokens, kVectors, 8>(high);
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) {
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) high[i][v] = Isa::AddI(high[i][v], low[i][v]);
        }
      }
      this->template Finish<kTokens, kVectors>(row, r, high);
    }
  }
};

// The nibbles of a block, one a byte: [planes][2 steps][64 rows][4].
template <typename Isa>
NIBBLE_INLINE void UnpackNibbles(const uint8_t* codes, int64_t bytes, uint8_t* unpacked) {
  for (int64_t i = 0; i < bytes; i += 256) {
    NIBBLE_UNROLL
    for (int v = 0; v < 4; ++v) {
      const auto both = Isa::LoadB(codes + i + 64 * v);
      Isa::StoreB(unpacked + 2 * i + 64 * v, Isa::LowNibbles(both));
      Isa::StoreB(unpacked + 2 * i + 256 + 64 * v, Isa::HighNibbles(both));
    }
  }
}

template <typename Isa, int kPlanes, int kParts, int kSteps>
void PackedTilesWith(const PackedFormat& format, const PackedTiles& tiles, const FixedPointRows& x,
                     int64_t first_row, int64_t num_rows, float* sums, void* scratch) {
  using F = typename Isa::F;
  using I = typename Isa::I;
  uint8_t* const unpacked = static_cast<uint8_t*>(scratch);
  const int64_t nibble_bytes = kPlanes * format.block_cols * 32;
  const int64_t scale_bytes = kTileRows * (format.float_scales ? 4 : 2);
  // Unpacking codes up to three times is cheaper than storing them unpacked.
  const bool direct = kPlanes == 1 && num_rows <= 3 * Isa::kDirectTokens;
  __builtin_memset(sums, 0,
                   static_cast<size_t>(tiles.count * num_rows * kTileRows) * sizeof(float));
  for (int64_t block = 0; block < format.num_blocks; ++block) {
    const int64_t x_row = block * x.stride + first_row;
    const int8_t* const x_planes = x.planes + x_row * kParts * format.block_cols;
    const int64_t x_bytes = num_rows * kParts * format.block_cols;
    for (int t = 0; t < tiles.count; ++t) {
      const uint8_t* const codes = tiles.tile[t] + block * format.block_bytes;
      const uint8_t* const tail = codes + nibble_bytes;
      F scales[4];
      I zeros[4];
      for (int v = 0; v < 4; ++v) {
        scales[v] = format.float_scales
                        ? Isa::Load(reinterpret_cast<const float*>(tail) + 16 * v)
                        : Isa::LoadBf16(reinterpret_cast<const uint16_t*>(tail) + 16 * v);
        if (format.zero_points) zeros[v] = Isa::LoadBytesUnsigned(tail + scale_bytes + 16 * v);
      }
      PackedBlock<Isa, kPlanes, kParts, kSteps> work;
      work.codes = codes;
      work.num_steps = format.block_cols / 8;
      work.scales = scales;
      work.zeros = format.zero_points ? zeros : nullptr;
      work.x = x_planes;
      work.x_scales = x.scales + x_row;
      work.x_sums = x.sums + x_row;
      work.totals = sums + t * num_rows * kTileRows;
      if constexpr (kPlanes == 1) {
        if (direct) {
          constexpr int64_t kAtOnce = Isa::kDirectTokens;
          if (num_rows <= kAtOnce) {
            ForRuns<kAtOnce>(num_rows, DirectBlock<Isa, kParts, kSteps, true>{
                                           work, format.block_bytes, num_rows});
          } else {
            ForRuns<kAtOnce>(num_rows, DirectBlock<Isa, kParts, kSteps, false>{
                                           work, format.block_bytes, num_rows});
          }
          continue;
        }
      }
      UnpackNibbles<Isa>(codes, nibble_bytes, unpacked);
      work.codes = unpacked;
      Ahead ahead_codes, ahead_x;
      const uint8_t* const next = t + 1 < tiles.count
                                      ? tiles.tile[t + 1] + block * format.block_bytes
                                      : tiles.tile[0] + (block + 1) * format.block_bytes;
      const int64_t runs = CeilDiv(num_rows, Isa::kIntTokens);
      ahead_codes.Plan(next, format.block_bytes, runs);
      ahead_x.Plan(x_planes + kParts * x.stride * format.block_cols + x_bytes * t / tiles.count,
                   x_bytes / tiles.count, runs);
      work.ahead_codes = &ahead_codes;
      work.ahead_x = &ahead_x;
      ForRuns<Isa::kIntTokens>(num_rows, work);
    }
  }
}

template <typename Isa, int kParts>
void PackedTilesOf(const PackedFormat& format, const PackedTiles& tiles, const FixedPointRows& x,
                   int64_t first_row, int64_t num_rows, float* sums, void* scratch) {
  if (format.nibble_planes == 2) {
    PackedTilesWith<Isa, 2, kParts, 0>(format, tiles, x, first_row, num_rows, sums, scratch);
  } else if (format.block_cols == 128) {
    PackedTilesWith<Isa, 1, kParts, 16>(format, tiles, x, first_row, num_rows, sums, scratch);
  } else {
    PackedTilesWith<Isa, 1, kParts, 0>(format, tiles, x, first_row, num_rows, sums, scratch);
  }
}

template <typename Isa>
void PackedTilesKernel(const PackedFormat& format, const PackedTiles& tiles,
                       const FixedPointRows& x, int64_t first_row, int64_t num_rows, float* sums,
                       void* scratch) {
  if (x.num_planes == 2) {
    PackedTilesOf<Isa, 2>(format, tiles, x, first_row, num_rows, sums, scratch);
  } else {
    PackedTilesOf<Isa, 1>(format, tiles, x, first_row, num_rows, sums, scratch);
  }
}

}  // namespace nibble::cpu
