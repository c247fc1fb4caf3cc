#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/host_device.h"
#include "backend/cuda/w4/dequantize.h"
#include "backend/cuda/w4/w4_layout.h"

// The inner loop of the product of a W4T matrix with a few tokens: the work of one warp on one
// group of 128 inputs in shared memory. A template over the instructions (`Isa`): Ptx
// (warp_ptx.cuh) in the kernel, Emulated (warp.h) in tests.
//
// Weights are the A operand, so that 16 rows of a weight meet 8 tokens in an instruction, and one
// token costs 8, not 16. Codes become BF16 integers from -8 to 7, exactly; their products with BF16
// activations are exact in float, and a group's sum is multiplied by its scale afterwards, in
// float: 4 multiply-adds per 8 tokens and 128 inputs instead of a multiplication for each pair of
// weights.
namespace nibble::cuda {

// Tokens in shared memory: a group of 128 inputs is 256 bytes, in rows of 272, which keeps the
// eight rows that ldmatrix reads at a time in different banks.
inline constexpr int kTokenPitch = 2 * kW4GroupCols + 16;

// What a lane holds of a warp's sums: kRowTiles x 16 rows of the weight, kTokenTiles x 8 tokens.
template <class Isa, int kRowTiles, int kTokenTiles>
struct SkinnySums {
  typename Isa::F32 value[kRowTiles][kTokenTiles][4];
};

// Row and column of element e of a lane's value[tile][token_tile].
NIBBLE_HOST_DEVICE constexpr int SumRow(int lane, int tile, int e) {
  return tile * 16 + lane / 4 + e / 2 * 8;
}
NIBBLE_HOST_DEVICE constexpr int SumToken(int lane, int token_tile, int e) {
  return token_tile * 8 + lane % 4 * 2 + e % 2;
}

template <class Isa, int kRowTiles, int kTokenTiles>
NIBBLE_DEVICE void ClearSums(SkinnySums<Isa, kRowTiles, kTokenTiles>& sums) {
  NIBBLE_CUDA_UNROLL
  for (int r = 0; r < kRowTiles; ++r) {
    NIBBLE_CUDA_UNROLL
    for (int n = 0; n < kTokenTiles; ++n) {
      NIBBLE_CUDA_UNROLL
      for (int e = 0; e < 4; ++e) sums.value[r][n][e] = typename Isa::F32(0.0f);
    }
  }
}

// The B operands of 16 inputs, `block` (0..7) of the group, for token tiles n and n + 1: their two
// registers each.
template <class Isa>
NIBBLE_DEVICE void LoadTokenPair(const std::byte* tokens, int block, int n,
                                 typename Isa::U32 (&words)[4]) {
  const typename Isa::U32 lane = Isa::Lane();
  const typename Isa::U32 row = lane / 16u * 8u + lane % 8u + static_cast<uint32_t>(n * 8);
  Isa::LoadMatrices(tokens,
                    row * static_cast<uint32_t>(kTokenPitch) + lane / 8u % 2u * 16u +
                        static_cast<uint32_t>(block * 32),
                    words);
}

// The same for one token tile and 32 inputs, `block` (0..3): two registers for each 16 inputs.
template <class Isa>
NIBBLE_DEVICE void LoadSingleToken(const std::byte* tokens, int block, int n,
                                   typename Isa::U32 (&words)[4]) {
  const typename Isa::U32 lane = Isa::Lane();
  const typename Isa::U32 row = lane % 8u + static_cast<uint32_t>(n * 8);
  Isa::LoadMatrices(tokens,
                    row * static_cast<uint32_t>(kTokenPitch) + lane / 8u * 16u +
                        static_cast<uint32_t>(block * 64),
                    words);
}

// sums += weights * tokens over one group.
//
//   records     one group of a panel, as in memory; aligned to 16 bytes
//   first_tile  the warp's first tile of 16 rows within the panel; all its tiles are in the panel
//   tokens      [kTokenTiles * 8] rows of kTokenPitch bytes, BF16; aligned to 16 bytes
template <class Isa, int kRowTiles, int kTokenTiles>
NIBBLE_DEVICE void MultiplyGroup(const std::byte* records, int first_tile, const std::byte* tokens,
                                 SkinnySums<Isa, kRowTiles, kTokenTiles>& sums) {
  using U32 = typename Isa::U32;
  using F32 = typename Isa::F32;
  const U32 lane = Isa::Lane();
  SkinnySums<Isa, kRowTiles, kTokenTiles> group;
  ClearSums(group);
  NIBBLE_CUDA_UNROLL
  for (int half = 0; half < 2; ++half) {
    U32 words[kRowTiles][4];
    NIBBLE_CUDA_UNROLL
    for (int r = 0; r < kRowTiles; ++r) {
      const int tile = first_tile + r;
      Isa::LoadVector(records + tile / 4 * kW4RecordBytes + (tile % 4 * 2 + half) * 512, lane * 16u,
                      words[r]);
    }
    NIBBLE_CUDA_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
      const int block = half * 2 + pair;  // of 32 inputs
      U32 single[4];
      if constexpr (kTokenTiles % 2 == 1) {
        LoadSingleToken<Isa>(tokens, block, kTokenTiles - 1, single);
      }
      NIBBLE_CUDA_UNROLL
      for (int h = 0; h < 2; ++h) {
        U32 a[kRowTiles][4];
        NIBBLE_CUDA_UNROLL
        for (int r = 0; r < kRowTiles; ++r) {
          NIBBLE_CUDA_UNROLL
          for (int j = 0; j < 4; ++j) a[r][j] = DequantizeBf16<Isa>(words[r][pair * 2 + h], j);
        }
        NIBBLE_CUDA_UNROLL
        for (int n = 0; n + 1 < kTokenTiles; n += 2) {
          U32 b[4];
          LoadTokenPair<Isa>(tokens, block * 2 + h, n, b);
          NIBBLE_CUDA_UNROLL
          for (int r = 0; r < kRowTiles; ++r) {
            Isa::MatrixMultiplyAdd(group.value[r][n], a[r], b[0], b[1]);
            Isa::MatrixMultiplyAdd(group.value[r][n + 1], a[r], b[2], b[3]);
          }
        }
        if constexpr (kTokenTiles % 2 == 1) {
          NIBBLE_CUDA_UNROLL
          for (int r = 0; r < kRowTiles; ++r) {
            Isa::MatrixMultiplyAdd(group.value[r][kTokenTiles - 1], a[r], single[2 * h],
                                   single[2 * h + 1]);
          }
        }
      }
    }
  }
  NIBBLE_CUDA_UNROLL
  for (int r = 0; r < kRowTiles; ++r) {
    const int tile = first_tile + r;
    const std::byte* scales =
        records + tile / 4 * kW4RecordBytes + kW4ScaleOffset + tile % 4 * kW4TileRows * 2;
    const F32 upper = Isa::LoadBf16(scales, lane / 4u * 2u);
    const F32 lower = Isa::LoadBf16(scales, lane / 4u * 2u + 16u);
    NIBBLE_CUDA_UNROLL
    for (int n = 0; n < kTokenTiles; ++n) {
      NIBBLE_CUDA_UNROLL
      for (int e = 0; e < 4; ++e) {
        sums.value[r][n][e] =
            Isa::MultiplyAdd(e < 2 ? upper : lower, group.value[r][n][e], sums.value[r][n][e]);
      }
    }
  }
}

// silu(gate) * up. With gate and up merged (GateUpSource) these are elements e and e + 2 of a
// lane's value[tile][token_tile], for e in {0, 1}; the feature is SumRow / 16 * 8 + SumRow % 8 of
// the panel.
template <class Isa, class F32>
NIBBLE_DEVICE F32 SwiGlu(const F32& gate, const F32& up) {
  return gate / (F32(1.0f) + Isa::Exp(gate * F32(-1.0f))) * up;
}

}  // namespace nibble::cuda
