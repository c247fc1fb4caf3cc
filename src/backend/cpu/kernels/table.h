#pragma once

#include <cstddef>
#include <cstdint>

#include "base/math.h"

// The CPU kernels as a table of plain functions, one table an instruction set. Kernels take raw
// pointers, trust their arguments, allocate nothing, do not throw and know no threads: an op
// divides its work into tasks, and each thread calls kernels for its own tasks.
//
// All tables give the same bits. Floats are handled in logical vectors of 16 lanes with explicit
// fused multiply-add and a fixed reduction order, whatever the width of the registers; packed
// weights are multiplied in exact integer arithmetic. And every result row depends on its own
// inputs alone: how many rows share a call changes nothing.
//
// Only plain C++ here: this header is compiled for several instruction sets, and an inline function
// of the standard library compiled for the widest of them must not end up in the program.
namespace nibble::cpu {

inline constexpr int64_t kTileRows = 64;     // output rows that lie together in a weight tile
inline constexpr int64_t kDenseBlock = 128;  // columns summed from zero before joining the total
inline constexpr int64_t kKeyBlock = 64;     // keys of a pass of attention, by position
inline constexpr int64_t kKeySpan = 512;     // keys between two partial results, by position
inline constexpr int64_t kMaxPackedBlock = 128;  // columns of a packed block, at most

// Maximum number of tiles of one call: the activations of a block are read once for all of them,
// and several streams of weights use the hardware prefetchers of some machines better than one.
inline constexpr int kMaxTiles = 8;

// Dense weights: tile t holds [cols][64] values of rows 64t..64t+63, padded with zero rows.
struct DenseTiles {
  const void* tile[kMaxTiles];
  int count;
  bool bf16;  // else float
  int64_t cols;
};

// Packed weights: a tile is a sequence of blocks of up to 128 columns. Layout of a block, in this
// order:
//
//   nibbles [planes][block_cols / 8][64 rows][4 bytes]   low nibble of byte j: column 8i + j, high
//                                                        nibble: column 8i + 4 + j. One plane for
//                                                        4-bit codes; two for 8-bit ones, high
//                                                        nibbles first
//   scales  [64] bf16 or float
//   zeros   [64] uint8, only if zero_points; else every zero point is 2^(bits - 1)
//
// The value of a weight is (code - zero) * scale.
struct PackedFormat {
  int64_t block_cols;  // a multiple of 8, at most 128
  int64_t num_blocks;
  int64_t block_bytes;
  int nibble_planes;
  bool float_scales;
  bool zero_points;

  friend constexpr bool operator==(const PackedFormat&, const PackedFormat&) = default;
};

struct PackedTiles {
  const uint8_t* tile[kMaxTiles];
  int count;
};

// Activation rows in fixed point, one scale a row and block: 16 bits split into two int8 planes,
// x = scale * (256 * high + low), or 8 bits in one plane, x = scale * value.
//
//   planes  [num_blocks][stride][num_planes][block_cols] int8
//   scales  [num_blocks][stride]
//   sums    [num_blocks][stride]   Σ (256 * high + low) or Σ value: what zero points multiply
struct FixedPointRows {
  int8_t* planes;
  float* scales;
  int32_t* sums;
  int64_t stride;  // rows stored per block, of which a call may use some
  int num_planes;  // 1 or 2
};

enum class PageType { kFloat, kBf16, kInt8 };

// A block of queries of one sequence that share a KV head, and the spans of the context to attend
// to. Element (i, j) of the queries, token i of num_tokens and head j of heads_per_kv_head, starts
// at q + i * stride + j * head_dim; out likewise. The pages are as KvPages documents them.
struct AttentionBlock {
  const float* q;
  float* out;
  int64_t stride;
  int64_t num_tokens;
  int64_t heads_per_kv_head;
  int64_t head_dim;
  float scale;             // of scores
  const float* sinks;      // [heads_per_kv_head]: one more score each, whose value is zero; or null
  int64_t first_position;  // of token 0; token i sees the keys of positions up to
                           // first_position + i
  int64_t sliding_window;  // the last sliding_window of these; 0: all
  const int32_t* blocks;   // KV blocks of the sequence
  int64_t block_size;
  const char* pages;
  PageType type;
  int64_t block_bytes;  // from one KV block to the next
  int64_t key_part;     // of this head inside a block, in bytes
  int64_t value_part;
  int64_t first_span;  // spans [first_span, last_span) of the context
  int64_t last_span;
  float* partials;  // of each span, AttentionPartialFloats(); null: the spans are all that the
                    // queries see, and the result goes to `out`
  float* scratch;   // AttentionScratchFloats() floats
};

struct Kernels {
  // out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t cols, float* out);

  // Turns a row into fixed point as row `row` of `out`. Gathers: the k-th packed column is
  // x[columns[k]], or zero for -1; null: x[k] for k < cols.
  void (*fix_row)(const float* x, const int32_t* columns, int64_t cols, const PackedFormat& format,
                  int64_t row, const FixedPointRows& out);

  // sums[tile][i][r] = weight row r of the tile . x[i];  sums [count][num_rows][64].
  // scratch: kTileScratchBytes.
  void (*dense_tiles)(const DenseTiles& tiles, const float* const* x, int64_t num_rows, float* sums,
                      void* scratch);
  // The same with rows [first_row, first_row + num_rows) of x.
  void (*packed_tiles)(const PackedFormat& format, const PackedTiles& tiles,
                       const FixedPointRows& x, int64_t first_row, int64_t num_rows, float* sums,
                       void* scratch);

  // What to do with a tile of sums [num_rows][64], of which `width` columns exist. Element
  // out[i * stride + r]
  //   = sum (store_tile),  += sum (add_tile),  = silu(sum) * other (silu_tile).
  void (*store_tile)(const float* sums, int64_t num_rows, int64_t width, float* out,
                     int64_t stride);
  void (*add_tile)(const float* sums, int64_t num_rows, int64_t width, float* out, int64_t stride);
  void (*silu_tile)(const float* sums, const float* other, int64_t num_rows, int64_t width,
                    float* out, int64_t stride);

  // out[i] += factor * x[i]
  void (*accumulate)(const float* x, float factor, int64_t count, float* out);

  // Rotates the first 2 * half elements of each head of [num_heads][head_dim] in place; pairs are
  // (i, i + half).
  void (*rotate)(float* heads, int64_t num_heads, int64_t head_dim, int64_t half,
                 const float* cosines, const float* sines);

  void (*attend)(const AttentionBlock& block);
  // Combines the partial results of all spans, computed by any threads, into `out`; overwrites
  // them.
  void (*fold_spans)(const AttentionBlock& block);

  // Rooflines of the machine. The results only prevent the work from being optimized away.
  uint64_t (*read_memory)(const void* data, int64_t bytes);
  float (*multiply_add)(int64_t rounds);  // float fused multiply-adds
  int32_t (*dot_bytes)(int64_t rounds);   // u8 x s8 dot products, as packed weights use them
  int64_t multiply_add_flops_per_round;   // a multiply-add counts as two
  int64_t dot_bytes_ops_per_round;
};

inline constexpr int64_t kTileScratchBytes = kDenseBlock * kTileRows * 4;

// Size of the partial result of a span: for each row a sum per element of the head, the largest
// score and the total.
constexpr int64_t AttentionPartialFloats(int64_t rows, int64_t head_dim) {
  return rows * (RoundUp(head_dim, kTileRows) + 2);
}

// Scores, keys and values of a block, two partial results; transposed queries, or queries and
// probabilities in fixed point with a scale and a sum each.
constexpr int64_t AttentionScratchFloats(int64_t rows, int64_t head_dim) {
  const int64_t padded = RoundUp(head_dim, kTileRows);
  return rows * kKeySpan + 2 * kKeyBlock * padded + 2 * AttentionPartialFloats(rows, head_dim) +
         rows * (padded + kKeySpan / 2 + 4) + 2 * kKeySpan;
}

}  // namespace nibble::cpu
