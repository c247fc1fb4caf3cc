#include "backend/cpu/kernels/amx_registers.h"
#include "backend/cpu/kernels/packed-inl.h"
#include "backend/cpu/kernels/simd_avx512.h"
#include "backend/cpu/kernels/tables.h"
#include "base/math.h"

// Products of packed weights with more than a few rows, on AMX tiles. Tiles do the same exact
// integer arithmetic as vectors, so every bit stays the same; only the order of operations differs.
//
// A unit of work is one block of columns, up to 16 activation rows and 32 weight rows (two planes)
// or all 64 (one plane): eight tile products for a block of 128 columns. The tile unit runs
// asynchronously, so the vector arithmetic that turns a unit's integer sums into floats is
// interleaved with the tile products of the next unit.
namespace nibble::cpu {
namespace {

using F = Avx512::F;
using I = Avx512::I;
using B = Avx512::B;

constexpr int64_t kTileDepth = 64;  // columns of weights that one instruction multiplies
constexpr int64_t kFewestRows = 4;  // below, configuring tiles costs more than they save
constexpr int64_t kFewGroups = 2;   // up to so many, bound by reading weights

// The epilogue of a unit: totals += weight scale * activation scale * sum.
struct Unit {
  const int32_t* sums;  // four tiles: two planes: [plane][16 weight rows of two]; one: [of four]
  const float* weight_scales;
  const float* x_scales;
  float* totals;     // [rows][64], from the unit's first weight row on
  int64_t next = 0;  // row
  int64_t rows = 0;
};

template <int kPlanes>
class TilePass {
 public:
  static constexpr int kVectors = 4 / kPlanes;  // of 16 weight rows in a unit

  TilePass(const PackedFormat& format, const FixedPointRows& x, int64_t first_row, int64_t num_rows,
           uint8_t* codes)
      : format_(format), x_(x), first_row_(first_row), num_rows_(num_rows), codes_(codes) {
    // Groups of equally many rows, so that the tiles are configured once: the last group starts
    // early, and skips the rows it shares with the previous one.
    num_groups_ = CeilDiv(num_rows, kTileSide);
    group_rows_ = CeilDiv(num_rows, num_groups_);
    ConfigureTiles(group_rows_);
  }
  ~TilePass() { _tile_release(); }
  TilePass(const TilePass&) = delete;
  TilePass& operator=(const TilePass&) = delete;

  void Run(const uint8_t* tile, float* totals) {
    for (int64_t block = 0; block < format_.num_blocks; ++block) {
      const uint8_t* const codes = tile + block * format_.block_bytes;
      Unpack(codes);
      FinishStores();
      WidenScales(codes + nibble_bytes(), scales_[block % 2]);
      const int64_t products = 4 * num_groups_ * (4 / kVectors) * (format_.block_cols / kTileDepth);
      ahead_.Plan(codes + format_.block_bytes, format_.block_bytes, products);
      for (int64_t group = 0; group < num_groups_; ++group) {
        if (num_groups_ > kFewGroups) {
          const bool last = group + 1 == num_groups_;
          ahead_x_.Plan(last ? Rows(block + 1, 0) : Rows(block, group + 1),
                        group_rows_ * row_bytes(), products / num_groups_);
        }
        for (int v = 0; v < 4; v += kVectors) Multiply(block, group, v, totals);
      }
    }
    FinishRows(unit_.rows);
  }

 private:
  int64_t row_bytes() const { return kPlanes * format_.block_cols; }

  // The activation rows of a group, and the index of the first one.
  int64_t FirstRow(int64_t group) const {
    const int64_t wanted = group * group_rows_;
    return wanted + group_rows_ <= num_rows_ ? wanted : num_rows_ - group_rows_;
  }
  const int8_t* Rows(int64_t block, int64_t group) const {
    return x_.planes + (block * x_.stride + first_row_ + FirstRow(group)) * row_bytes();
  }

  int64_t nibble_bytes() const { return format_.nibble_planes * format_.block_cols * 32; }

  // One signed byte a weight, its zero point subtracted: [columns / 4][64 rows][4].
  void Unpack(const uint8_t* packed) const {
    if (format_.nibble_planes == 2) {  // high nibbles first
      const int64_t bytes = nibble_bytes() / 2;
      const B middle = _mm512_set1_epi8(static_cast<char>(128));
      for (int64_t i = 0; i < bytes; i += 256) {
        for (int v = 0; v < 4; ++v) {
          const B high = Avx512::LoadB(packed + i + 64 * v);
          const B low = Avx512::LoadB(packed + bytes + i + 64 * v);
          const B first = _mm512_or_si512(_mm512_slli_epi16(Avx512::LowNibbles(high), 4),
                                          Avx512::LowNibbles(low));
          const B second = _mm512_or_si512(_mm512_slli_epi16(Avx512::HighNibbles(high), 4),
                                           Avx512::HighNibbles(low));
          Avx512::StoreB(codes_ + 2 * i + 64 * v, _mm512_sub_epi8(first, middle));
          Avx512::StoreB(codes_ + 2 * i + 256 + 64 * v, _mm512_sub_epi8(second, middle));
        }
      }
      return;
    }
    B zeros[4];
    const uint8_t* const zero_points = packed + nibble_bytes() + scale_bytes();
    for (int v = 0; v < 4; ++v) {
      zeros[v] = format_.zero_points
                     ? _mm512_mullo_epi32(Avx512::LoadBytesUnsigned(zero_points + 16 * v),
                                          _mm512_set1_epi32(0x01010101))
                     : _mm512_set1_epi8(8);
    }
    for (int64_t i = 0; i < nibble_bytes(); i += 256) {
      NIBBLE_UNROLL
      for (int v = 0; v < 4; ++v) {
        const B both = Avx512::LoadB(packed + i + 64 * v);
        Avx512::StoreB(codes_ + 2 * i + 64 * v,
                       _mm512_sub_epi8(Avx512::LowNibbles(both), zeros[v]));
        Avx512::StoreB(codes_ + 2 * i + 256 + 64 * v,
                       _mm512_sub_epi8(Avx512::HighNibbles(both), zeros[v]));
      }
    }
  }

  void WidenScales(const uint8_t* stored, float* scales) const {
    for (int v = 0; v < 4; ++v) {
      Avx512::Store(scales + 16 * v,
                    format_.float_scales
                        ? Avx512::Load(reinterpret_cast<const float*>(stored) + 16 * v)
                        : Avx512::LoadBf16(reinterpret_cast<const uint16_t*>(stored) + 16 * v));
    }
  }

  int64_t scale_bytes() const { return kTileRows * (format_.float_scales ? 4 : 2); }

  // Runs the epilogue of up to `count` more rows of the previous unit.
  NIBBLE_INLINE void FinishRows(int64_t count) {
    if (unit_.next >= unit_.rows) return;
    const int64_t end = unit_.next + count < unit_.rows ? unit_.next + count : unit_.rows;
    F scales[kVectors];
    NIBBLE_UNROLL
    for (int v = 0; v < kVectors; ++v) scales[v] = Avx512::Load(unit_.weight_scales + 16 * v);
    for (int64_t i = unit_.next; i < end; ++i) {
      const F x_scale = Avx512::Set(unit_.x_scales[i]);
      NIBBLE_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        const int32_t* const first = unit_.sums + v * kTileInts + i * kTileSide;
        I sum = _mm512_load_si512(first);
        if constexpr (kPlanes == 2) {
          sum = Avx512::AddI(Avx512::ShiftLeft<8>(sum), _mm512_load_si512(first + 2 * kTileInts));
        }
        float* const total = unit_.totals + i * kTileRows + 16 * v;
        Avx512::Store(total, Avx512::Fma(Avx512::Mul(scales[v], x_scale), Avx512::ToFloat(sum),
                                         Avx512::Load(total)));
      }
    }
    unit_.next = end;
  }

  // Between two tile products: prefetches a part of the next block and of the activations of the
  // next group, and runs the epilogue of some rows.
  NIBBLE_INLINE void Meanwhile(int64_t count) {
    ahead_.Advance();
    ahead_x_.Advance<3>();
    FinishRows(count);
  }

  NIBBLE_INLINE void Multiply(int64_t block, int64_t group, int v, float* totals) {
    const int64_t first = FirstRow(group);
    const int8_t* const x = Rows(block, group);
    const uint8_t* const w = codes_ + 64 * v;
    const auto bytes = static_cast<size_t>(row_bytes());
    const int64_t share = CeilDiv(group_rows_ * kTileDepth, 4 * format_.block_cols);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < format_.block_cols; k += kTileDepth) {
      const uint8_t* const weights = w + k * kTileRows;
      if constexpr (kPlanes == 2) {
        _tile_loadd(6, weights, 4 * kTileRows);
        _tile_loadd(4, x + k, bytes);
        _tile_dpbssd(0, 4, 6);
        Meanwhile(share);
        _tile_loadd(7, weights + 64, 4 * kTileRows);
        _tile_dpbssd(1, 4, 7);
        Meanwhile(share);
        _tile_loadd(5, x + format_.block_cols + k, bytes);
        _tile_dpbssd(2, 5, 6);
        Meanwhile(share);
        _tile_dpbssd(3, 5, 7);
        Meanwhile(share);
      } else {
        _tile_loadd(4, x + k, bytes);
        _tile_loadd(6, weights, 4 * kTileRows);
        _tile_dpbssd(0, 4, 6);
        Meanwhile(share);
        _tile_loadd(7, weights + 64, 4 * kTileRows);
        _tile_dpbssd(1, 4, 7);
        Meanwhile(share);
        _tile_loadd(6, weights + 128, 4 * kTileRows);
        _tile_dpbssd(2, 4, 6);
        Meanwhile(share);
        _tile_loadd(7, weights + 192, 4 * kTileRows);
        _tile_dpbssd(3, 4, 7);
        Meanwhile(share);
      }
    }
    FinishRows(unit_.rows);
    int32_t* const sums = sums_[parity_];
    parity_ = 1 - parity_;
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + kTileInts, 64);
    _tile_stored(2, sums + 2 * kTileInts, 64);
    _tile_stored(3, sums + 3 * kTileInts, 64);
    unit_.sums = sums;
    unit_.weight_scales = scales_[block % 2] + 16 * v;
    unit_.x_scales = x_.scales + block * x_.stride + first_row_ + first;
    unit_.totals = totals + first * kTileRows + 16 * v;
    unit_.next = group * group_rows_ - first;
    unit_.rows = group_rows_;
  }

  const PackedFormat format_;
  const FixedPointRows x_;
  int64_t first_row_, num_rows_;
  int64_t num_groups_ = 0, group_rows_ = 0;
  uint8_t* codes_;
  Unit unit_{};
  Ahead ahead_;    // weights, into the second-level cache
  Ahead ahead_x_;  // activations, into the first
  int parity_ = 0;
  alignas(64) float scales_[2][kTileRows];  // of this block and, until its last unit is done, the
                                            // one before
  alignas(64) int32_t sums_[2][4 * kTileInts];
};

template <int kPlanes>
void MultiplyTiles(const PackedFormat& format, const PackedTiles& tiles, const FixedPointRows& x,
                   int64_t first_row, int64_t num_rows, float* sums, uint8_t* scratch) {
  TilePass<kPlanes> pass(format, x, first_row, num_rows, scratch);
  for (int t = 0; t < tiles.count; ++t) pass.Run(tiles.tile[t], sums + t * num_rows * kTileRows);
}

}  // namespace

void AmxPackedTiles(const PackedFormat& format, const PackedTiles& tiles, const FixedPointRows& x,
                    int64_t first_row, int64_t num_rows, float* sums, void* scratch) {
  const bool signed_bytes = format.nibble_planes == 1 || !format.zero_points;  // hold code - zero
  if (num_rows < kFewestRows || format.block_cols % kTileDepth != 0 || !signed_bytes) {
    kAvx512Kernels.packed_tiles(format, tiles, x, first_row, num_rows, sums, scratch);
    return;
  }
  __builtin_memset(sums, 0,
                   static_cast<size_t>(tiles.count * num_rows * kTileRows) * sizeof(float));
  if (x.num_planes == 2) {
    MultiplyTiles<2>(format, tiles, x, first_row, num_rows, sums, static_cast<uint8_t*>(scratch));
  } else {
    MultiplyTiles<1>(format, tiles, x, first_row, num_rows, sums, static_cast<uint8_t*>(scratch));
  }
}

// The roofline: products of tiles that stay in registers.
int32_t AmxDotBytes(int64_t rounds) {
  ConfigureTiles(kTileSide);
  alignas(64) int8_t bytes[4 * kTileInts];
  for (int64_t i = 0; i < 4 * kTileInts; ++i) bytes[i] = static_cast<int8_t>(i % 11);
  FinishStores();
  _tile_loadd(4, bytes, 64);
  _tile_loadd(5, bytes, 64);
  _tile_loadd(6, bytes, 64);
  _tile_loadd(7, bytes, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  alignas(64) int32_t sums[kTileInts];
  _tile_stored(0, sums, 64);
  int32_t total = sums[0];
  _tile_stored(1, sums, 64);
  total ^= sums[1];
  _tile_stored(2, sums, 64);
  total ^= sums[2];
  _tile_stored(3, sums, 64);
  total ^= sums[3];
  _tile_release();
  return total;
}

}  // namespace nibble::cpu
