#include "backend/cpu/kernels/amx_registers.h"
#include "backend/cpu/kernels/attention_int8-inl.h"
#include "backend/cpu/kernels/simd_avx512.h"
#include "backend/cpu/kernels/tables.h"
#include "base/math.h"

// Attention over int8 pages with the products on AMX tiles. The layout of keys in the pages is that
// of the right operand: 16 tokens by 4 dimensions a row. Values are gathered first, 16 rows of 4
// tokens by 16 columns. The two planes of up to 8 query rows are the left operand.
namespace nibble::cpu {
namespace {

struct AttendByTiles final : AttendInt8By<Avx512, AttendByTiles> {
  using Vectors = AttendInt8By<Avx512, AttendByTiles>;
  static constexpr int64_t kDepth = 64;  // dimensions of keys, or tokens, that a product sums over

  bool tiles;          // worth while; few rows are bound by memory
  int64_t group_rows;  // query rows at once; the last group may share some with the one before

  explicit AttendByTiles(const AttentionBlock& b) : Vectors(b) {
    const int64_t groups = CeilDiv(num_rows, kTileSide / 2);
    group_rows = CeilDiv(num_rows, groups);
    tiles = num_rows > kFewRows && in_place && row_dim % kDepth == 0;
    if (tiles) ConfigureTiles(2 * group_rows);
  }
  ~AttendByTiles() {
    if (tiles) _tile_release();
  }

  // Runs group(first row, first row that no earlier group had); the last group may overlap.
  template <typename Group>
  NIBBLE_INLINE void ForGroups(const Group& group) const {
    for (int64_t row = 0; row < num_rows; row += group_rows) {
      group(row + group_rows <= num_rows ? row : num_rows - group_rows, row);
    }
  }

  NIBBLE_INLINE void ScoreKeys(int64_t key, int64_t start, int64_t first, int64_t last,
                               float scale) {
    if (!tiles) return Vectors::ScoreKeys(key, start, first, last, scale);
    const KeyGroups from = KeysInPlace(key);
    FinishStores();
    ForGroups([&](int64_t row, int64_t) NIBBLE_LAMBDA {
      const int64_t limit = Limit(row + group_rows - 1) - key;
      if (limit <= 0 || Oldest(row) >= key + kKeyBlock) return;
      const auto step = static_cast<size_t>(from.step);
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t d = 0; d < row_dim; d += kDepth) {
        _tile_loadd(4, queries + row * 2 * row_dim + d, static_cast<size_t>(row_dim));
        const int64_t offset = d / 4 * from.step;
        _tile_loadd(6, from.base[0] + offset, step);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, from.base[1] + offset, step);
        _tile_dpbsud(1, 4, 7);
        _tile_loadd(6, from.base[2] + offset, step);
        _tile_dpbsud(2, 4, 6);
        _tile_loadd(7, from.base[3] + offset, step);
        _tile_dpbsud(3, 4, 7);
      }
      StoreProducts();
      for (int64_t i = 0; i < group_rows; ++i) {
        const I excess = MinusExcess(query_sums[row + i]);
        const F factor = Avx512::Set(query_scales[row + i] * scale);
        float* const to = scores + (row + i) * kKeySpan + key - start;
        const float* const scales = key_scales + key - start;
        for (int64_t g = 0; g < 4 && 16 * g < limit; ++g) {
          const F dot = Avx512::ToFloat(Avx512::AddI(Product(g, i), excess));
          Avx512::Store(to + 16 * g,
                        Avx512::Mul(Avx512::Mul(dot, factor), Avx512::Load(scales + 16 * g)));
        }
      }
    });
  }

  NIBBLE_INLINE void WeighValues(int64_t key, int64_t start, int64_t last, bool more) {
    if (!tiles) return Vectors::WeighValues(key, start, last, more);
    const KeyGroups from = ValuesInPlace(key);
    const int64_t columns = row_dim / 16;
    for (int64_t g = 0; g < 4; ++g) {
      for (int64_t k = 0; k < 4; ++k) {
        for (int64_t c = 0; c < columns; ++c) {
          const char* const line = from.base[g] + k * from.step + c * 64;
          Avx512::StoreB(reinterpret_cast<uint8_t*>(values) + (c * kTileSide + 4 * g + k) * 64,
                         Avx512::LoadB(reinterpret_cast<const uint8_t*>(line)));
        }
      }
    }
    FinishStores();
    ForGroups([&](int64_t row, int64_t fresh) NIBBLE_LAMBDA {
      const int64_t limit = Limit(row + group_rows - 1) - key;
      if (limit <= 0 || Oldest(row) >= key + kKeyBlock) return;
      _tile_loadd(4, weights + row * 2 * kKeySpan + key - start, static_cast<size_t>(kKeySpan));
      for (int64_t c = 0; c < columns; c += 4) {
        const char* const lines = values + c * kTileSide * 64;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        _tile_loadd(6, lines, 64);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, lines + 1024, 64);
        _tile_dpbsud(1, 4, 7);
        _tile_loadd(6, lines + 2048, 64);
        _tile_dpbsud(2, 4, 6);
        _tile_loadd(7, lines + 3072, 64);
        _tile_dpbsud(3, 4, 7);
        StoreProducts();
        for (int64_t i = fresh - row; i < group_rows; ++i) {
          float* const sum = sums + (row + i) * padded + 16 * c;
          for (int64_t v = 0; v < 4; ++v) {
            const I before = Avx512::LoadInts(reinterpret_cast<const uint8_t*>(sum + 16 * v));
            Avx512::Store(sum + 16 * v, Avx512::AsFloat(Avx512::AddI(before, Product(v, i))));
          }
        }
      }
    });
  }

 private:
  NIBBLE_INLINE void StoreProducts() {
    _tile_stored(0, products_, 64);
    _tile_stored(1, products_ + kTileInts, 64);
    _tile_stored(2, products_ + 2 * kTileInts, 64);
    _tile_stored(3, products_ + 3 * kTileInts, 64);
  }
  // Combines both planes of query row `i` of the group from tile register `tile`.
  NIBBLE_INLINE I Product(int64_t tile, int64_t i) const {
    const int32_t* const high = products_ + tile * kTileInts + 2 * i * kTileSide;
    return Unsplit(_mm512_load_si512(high), _mm512_load_si512(high + kTileSide));
  }

  alignas(64) int32_t products_[4 * kTileInts];
};

}  // namespace

void AmxAttendInt8(const AttentionBlock& block) { AttendByTiles(block).Run(); }

}  // namespace nibble::cpu
