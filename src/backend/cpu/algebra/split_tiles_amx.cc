#include <immintrin.h>

#include "backend/cpu/algebra/split_tiles.h"
#include "base/math.h"

// Compiled for AMX: nothing here may be shared with other files, so no inline functions of others
// but those that are inlined by force.
namespace nibble::cpu {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Constant-initialized: the compiler does not see which memory ldtilecfg reads.
constinit const TileConfig kConfig;

// Three tiles of pairs: parts of `low` in the lower halves of words, parts of `high` in the upper
// ones.
void StoreParts(__m512 low, __m512 high, char* to) {
  const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i upper_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (int part = 0; part < 3; ++part) {
    const __m512i rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    const __m512i words = _mm512_permutexvar_epi16(pairs, rounded);
    _mm512_store_si512(to + part * kTileBytes, words);
    low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
    high = _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_and_si512(words, upper_half)));
  }
}

// Transposes a tile of 16 x 16 words of 32 bits.
void Transpose(char* tile) {
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_load_si512(tile + i * 64);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_store_si512(tile + i * 64, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
    _mm512_store_si512(tile + (i + 8) * 64, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
    _mm512_store_si512(tile + (i + 4) * 64, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
    _mm512_store_si512(tile + (i + 12) * 64, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
  }
}

// A mask of bits [from, to) of 16; bounds are clamped.
__mmask16 Bits(int64_t from, int64_t to) {
  if (from < 0) from = 0;
  if (to > 16) to = 16;
  if (from >= to) return 0;
  return static_cast<__mmask16>((0xffffu >> (16 - to)) & (0xffffu << from));
}

}  // namespace

void StartTiles() { _tile_loadconfig(&kConfig); }

void StopTiles() { _tile_release(); }

void PackTiles(const TileOperand& from, int64_t first_line, int64_t lines, int64_t first,
               int64_t depth, bool left, char* to) {
  const int64_t line_end = first_line + lines;
  const int64_t end = first + depth;
  const int64_t steps = CeilDiv(depth, kTileDepth);
  const int64_t panels = CeilDiv(lines, kTileLines);
  // Loads 16 lines at one depth, or 16 depths of one line, contiguous in memory. `whole`: no
  // element is out of bounds or below the diagonal.
  const auto load = [&](bool whole, int64_t row, int64_t col, int64_t row_end, int64_t col_end) {
    const float* const at = from.data + row * from.stride + col;
    if (whole) return _mm512_loadu_ps(at);
    if (row >= row_end) return _mm512_setzero_ps();
    const __mmask16 mask = Bits(from.upper ? row - from.upper_from - col : 0, col_end - col);
    return _mm512_maskz_loadu_ps(mask, at);
  };
  const auto is_whole = [&](int64_t row, int64_t rows, int64_t row_end, int64_t col, int64_t cols,
                            int64_t col_end) {
    return row + rows <= row_end && col + cols <= col_end &&
           (!from.upper || row + rows - 1 <= col + from.upper_from);
  };
  if (from.depth_major) {
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t k = first + step * kTileDepth;
      for (int64_t panel = 0; panel < panels; ++panel) {
        char* const tiles = to + (panel * steps + step) * kStepBytes;
        const int64_t line = first_line + panel * kTileLines;
        const bool whole = is_whole(k, kTileDepth, end, line, kTileLines, line_end);
        for (int64_t pair = 0; pair < kTileDepth / 2; ++pair) {
          StoreParts(load(whole, k + 2 * pair, line, end, line_end),
                     load(whole, k + 2 * pair + 1, line, end, line_end), tiles + pair * 64);
        }
        if (!left) continue;
        for (int part = 0; part < 3; ++part) Transpose(tiles + part * kTileBytes);
      }
    }
    return;
  }
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t line = first_line + panel * kTileLines;
    for (int64_t step = 0; step < steps; ++step) {
      char* const tiles = to + (panel * steps + step) * kStepBytes;
      const int64_t k = first + step * kTileDepth;
      const bool whole = is_whole(line, kTileLines, line_end, k, kTileDepth, end);
      for (int64_t i = 0; i < kTileLines; ++i) {
        const __m512 one = load(whole, line + i, k, line_end, end);
        const __m512 two = load(whole, line + i, k + 16, line_end, end);
        StoreParts(_mm512_permutex2var_ps(one, even, two), _mm512_permutex2var_ps(one, odd, two),
                   tiles + i * 64);
      }
      if (left) continue;
      for (int part = 0; part < 3; ++part) Transpose(tiles + part * kTileBytes);
    }
  }
}

// Tiles 0 to 3 hold the sums, 4 and 5 parts of A, 6 and 7 parts of B.
void MultiplyTiles(const char* a0, const char* a1, const char* b0, const char* b1, int64_t steps,
                   float* sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t at = step * kStepBytes;
// Loads are interleaved with products, far ahead of their use.
#define NIBBLE_A(tile, from, part) _tile_loadd(tile, from + at + (part) * kTileBytes, 64)
#define NIBBLE_PRODUCTS_OF_B(part)                   \
  _tile_loadd(6, b0 + at + (part) * kTileBytes, 64); \
  _tile_dpbf16ps(0, 4, 6);                           \
  _tile_dpbf16ps(2, 5, 6);                           \
  _tile_loadd(7, b1 + at + (part) * kTileBytes, 64); \
  _tile_dpbf16ps(1, 4, 7);                           \
  _tile_dpbf16ps(3, 5, 7)
    NIBBLE_A(4, a0, 0);
    NIBBLE_A(5, a1, 0);
    NIBBLE_PRODUCTS_OF_B(2);
    NIBBLE_PRODUCTS_OF_B(1);
    NIBBLE_PRODUCTS_OF_B(0);
    NIBBLE_A(4, a0, 2);
    NIBBLE_A(5, a1, 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    NIBBLE_A(4, a0, 1);
    NIBBLE_A(5, a1, 1);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    NIBBLE_PRODUCTS_OF_B(1);
#undef NIBBLE_A
#undef NIBBLE_PRODUCTS_OF_B
  }
  constexpr int kRowBytes = kPairLines * 4;
  _tile_stored(0, sums, kRowBytes);
  _tile_stored(1, sums + kTileLines, kRowBytes);
  _tile_stored(2, sums + kTileLines * kPairLines, kRowBytes);
  _tile_stored(3, sums + kTileLines * kPairLines + kTileLines, kRowBytes);
}

void AddSums(const float* sums, int64_t rows, int64_t cols, int64_t skip, float alpha, bool set,
             float* c, int64_t stride) {
  const __m512 factor = _mm512_set1_ps(alpha);
  if (cols == kPairLines && skip + rows <= 1) {  // whole rows
    for (int64_t row = 0; row < rows; ++row) {
      float* const to = c + row * stride;
      const __m512 sum0 = _mm512_load_ps(sums + row * kPairLines);
      const __m512 sum1 = _mm512_load_ps(sums + row * kPairLines + 16);
      const __m512 old0 = set ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
      const __m512 old1 = set ? _mm512_setzero_ps() : _mm512_loadu_ps(to + 16);
      _mm512_storeu_ps(to, _mm512_fmadd_ps(factor, sum0, old0));
      _mm512_storeu_ps(to + 16, _mm512_fmadd_ps(factor, sum1, old1));
    }
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; col += 16) {
      const __mmask16 mask = Bits(row + skip - col, cols - col);
      float* const to = c + row * stride + col;
      const __m512 old = set ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, to);
      const __m512 sum = _mm512_load_ps(sums + row * kPairLines + col);
      _mm512_mask_storeu_ps(to, mask, _mm512_fmadd_ps(factor, sum, old));
    }
  }
}

void PrefetchTarget(const float* c, int64_t rows, int64_t cols, int64_t stride) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; col += 16) {
      _mm_prefetch(reinterpret_cast<const char*>(c + row * stride + col), _MM_HINT_T0);
    }
  }
}

}  // namespace nibble::cpu
