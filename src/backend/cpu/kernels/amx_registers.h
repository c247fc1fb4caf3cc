#pragma once

#include <immintrin.h>

#include <cstdint>

#include "backend/cpu/kernels/simd.h"

// How the integer kernels use the tile registers of AMX. Only for files that are compiled for AMX.
namespace nibble::cpu {

inline constexpr int64_t kTileSide = 16;  // rows of a tile register, and its columns of four bytes
inline constexpr int64_t kTileInts = kTileSide * kTileSide;

struct alignas(64) AmxConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

struct AmxConfigs {
  AmxConfig of[kTileSide + 1];

  constexpr AmxConfigs() : of() {
    for (int64_t rows = 0; rows <= kTileSide; ++rows) {
      for (int i = 0; i < 8; ++i) {
        of[rows].bytes_per_row[i] = 64;
        of[rows].rows[i] = static_cast<uint8_t>(i < 6 ? rows : kTileSide);
      }
    }
  }
};
// Constant-initialized: compilers do not see which memory ldtilecfg reads, so they could move a
// store to it behind the instruction.
inline constinit const AmxConfigs kAmxConfigs;

// Registers 0-3 hold sums and 4-5 the left operand, of `rows` rows; 6-7 the right one, of 16.
NIBBLE_INLINE void ConfigureTiles(int64_t rows) { _tile_loadconfig(&kAmxConfigs.of[rows]); }

// A compiler barrier: not all compilers see that a tile load reads memory, so earlier stores must
// be completed explicitly.
NIBBLE_INLINE void FinishStores() { __asm__ volatile("" ::: "memory"); }

}  // namespace nibble::cpu
