#pragma once

#include "backend/cpu/dense-inl.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/rows-inl.h"
#include "backend/cpu/simd.h"

// Attention of a block of queries that share a KV head. Keys come in blocks of 64 by absolute
// position: the block is copied out of its pages once (keys transposed), all query rows are
// multiplied with it, and a running softmax folds it into their sums. Which blocks a query meets,
// and in what order, depends on its position only; a block it must not see at all multiplies its
// sums by exactly one and adds zero. So the result does not depend on which queries share the call.
namespace nibble::cpu {

template <typename Isa>
struct Attend {
  using F = typename Isa::F;
  static constexpr float kMinusInfinity = -__builtin_huge_valf();

  const AttentionBlock& block;
  int64_t num_rows;  // token-major: row i * heads_per_kv_head + j is token i, head j
  int64_t padded;    // head_dim rounded up to whole tiles
  float* keys;       // [head_dim, rounded up to 16][64], transposed
  float* values;     // [64][padded]
  float* scores;     // [rows][64], then probabilities
  float* sums;       // [rows][padded]
  float* largest;    // [rows]
  float* total;      // [rows]
  float* rescale;    // [rows]

  explicit Attend(const AttentionBlock& b) : block(b) {
    num_rows = b.num_tokens * b.heads_per_kv_head;
    padded = (b.head_dim + kTileRows - 1) / kTileRows * kTileRows;
    keys = b.scratch;
    values = keys + kKeyBlock * ((b.head_dim + 15) / 16 * 16);
    scores = values + kKeyBlock * padded;
    sums = scores + num_rows * kKeyBlock;
    largest = sums + num_rows * padded;
    total = largest + num_rows;
    rescale = total + num_rows;
  }

  NIBBLE_INLINE const float* Query(int64_t row) const {
    return block.q + row / block.heads_per_kv_head * block.stride +
           row % block.heads_per_kv_head * block.head_dim;
  }

  // Element 0 of key or value `position`.
  template <typename T>
  NIBBLE_INLINE const T* Element(int64_t position, int64_t offset) const {
    const int64_t page = block.blocks[position / block.block_size];
    return static_cast<const T*>(block.pages) + page * block.block_stride + offset +
           position % block.block_size * block.head_dim;
  }
  static NIBBLE_INLINE F LoadPage(const float* p, int64_t count) {
    return Isa::LoadFirst(p, count);
  }
  static NIBBLE_INLINE F LoadPage(const uint16_t* p, int64_t count) {
    return Isa::LoadFirstBf16(p, count);
  }

  // Keys and values of positions [first, first + 64); zeros from `end` on.
  template <typename T>
  NIBBLE_INLINE void Gather(int64_t first, int64_t end) {
    for (int64_t key = 0; key < kKeyBlock; key += 16) {
      const T* rows[16];
      for (int i = 0; i < 16; ++i) {
        const int64_t position = first + key + i;
        rows[i] = position < end ? Element<T>(position, block.key_offset) : nullptr;
      }
      for (int64_t d = 0; d < block.head_dim; d += 16) {
        F tile[16];
        NIBBLE_UNROLL
        for (int i = 0; i < 16; ++i) {
          tile[i] = rows[i] != nullptr ? LoadPage(rows[i] + d, block.head_dim - d) : Isa::Zero();
        }
        Isa::Transpose(tile);
        NIBBLE_UNROLL
        for (int i = 0; i < 16; ++i) Isa::Store(keys + (d + i) * kKeyBlock + key, tile[i]);
      }
    }
    for (int64_t key = 0; key < kKeyBlock; ++key) {
      const bool exists = first + key < end;
      const T* const row = exists ? Element<T>(first + key, block.value_offset) : nullptr;
      for (int64_t d = 0; d < padded; d += 16) {
        Isa::Store(values + key * padded + d,
                   exists ? LoadPage(row + d, block.head_dim - d) : Isa::Zero());
      }
    }
  }

  struct Scores {
    const Attend& a;
    F scale;

    template <int kTokens>
    NIBBLE_INLINE void Run(int64_t row) const {
      const float* queries[kTokens];
      for (int i = 0; i < kTokens; ++i) queries[i] = a.Query(row + i);
      constexpr int kVectors = Isa::FloatVectors(kTokens);
      for (int64_t key = 0; key < kKeyBlock; key += 16 * kVectors) {
        F dots[kTokens][kVectors];
        OuterProduct<Isa, kTokens, kVectors>(a.keys + key, kKeyBlock, queries, 0, a.block.head_dim,
                                             dots);
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) {
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            Isa::Store(a.scores + (row + i) * kKeyBlock + key + 16 * v,
                       Isa::Mul(dots[i][v], scale));
          }
        }
      }
    }
  };

  // Turns a row of scores into probabilities relative to the largest score so far.
  NIBBLE_INLINE void Softmax(int64_t row, int64_t first) {
    const int64_t position = block.first_position + row / block.heads_per_kv_head;
    const int64_t oldest = block.sliding_window > 0 ? position + 1 - block.sliding_window : 0;
    float* const score = scores + row * kKeyBlock;
    F s[4];
    NIBBLE_UNROLL
    for (int v = 0; v < 4; ++v) {
      s[v] = Isa::Select(Isa::Load(score + 16 * v), Isa::Set(kMinusInfinity),
                         oldest - first - 16 * v, position + 1 - first - 16 * v);
    }
    const float here = Isa::MaxLane(Isa::Max(Isa::Max(s[0], s[1]), Isa::Max(s[2], s[3])));
    const float before = largest[row];
    const float now = before > here ? before : here;
    const float base = now == kMinusInfinity ? 0.0f : now;  // nothing seen yet: exp(-inf - 0) = 0
    const F minus_base = Isa::Set(-base);
    NIBBLE_UNROLL
    for (int v = 0; v < 4; ++v) {
      s[v] = Isa::Select(Exp<Isa>(Isa::Add(s[v], minus_base)), Isa::Zero(), oldest - first - 16 * v,
                         position + 1 - first - 16 * v);
      Isa::Store(score + 16 * v, s[v]);
    }
    // Nothing seen before: the sums are zero and stay so.
    const float shrink = before == kMinusInfinity ? 1.0f : ExpOne(before - base);
    largest[row] = now;
    rescale[row] = shrink;
    total[row] =
        total[row] * shrink + Isa::Sum(Isa::Add(Isa::Add(s[0], s[1]), Isa::Add(s[2], s[3])));
  }

  static NIBBLE_INLINE float ExpOne(float x) {
    float lanes[16];
    Isa::Store(lanes, Exp<Isa>(Isa::Set(x)));
    return lanes[0];
  }

  struct Weigh {
    const Attend& a;

    template <int kTokens>
    NIBBLE_INLINE void Run(int64_t row) const {
      constexpr int kVectors = Isa::FloatVectors(kTokens);
      const float* probabilities[kTokens];
      for (int i = 0; i < kTokens; ++i) probabilities[i] = a.scores + (row + i) * kKeyBlock;
      for (int64_t column = 0; column < a.padded; column += 16 * kVectors) {
        F added[kTokens][kVectors];
        OuterProduct<Isa, kTokens, kVectors>(a.values + column, a.padded, probabilities, 0,
                                             kKeyBlock, added);
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) {
          const F shrink = Isa::Set(a.rescale[row + i]);
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            float* const sum = a.sums + (row + i) * a.padded + column + 16 * v;
            Isa::Store(sum, Isa::Fma(Isa::Load(sum), shrink, added[i][v]));
          }
        }
      }
    }
  };

  void Run() {
    const int64_t end = block.first_position + block.num_tokens;
    const int64_t oldest =
        block.sliding_window > 0 && block.first_position + 1 > block.sliding_window
            ? block.first_position + 1 - block.sliding_window
            : 0;
    for (int64_t i = 0; i < num_rows * padded; ++i) sums[i] = 0.0f;
    for (int64_t row = 0; row < num_rows; ++row) {
      largest[row] = kMinusInfinity;
      total[row] = 0.0f;
    }
    const F scale = Isa::Set(1.0f / __builtin_sqrtf(static_cast<float>(block.head_dim)));
    for (int64_t first = oldest / kKeyBlock * kKeyBlock; first < end; first += kKeyBlock) {
      if (block.bf16) {
        Gather<uint16_t>(first, end);
      } else {
        Gather<float>(first, end);
      }
      ForRuns<Isa::kFloatTokens>(num_rows, Scores{*this, scale});
      for (int64_t row = 0; row < num_rows; ++row) Softmax(row, first);
      ForRuns<Isa::kFloatTokens>(num_rows, Weigh{*this});
    }
    for (int64_t row = 0; row < num_rows; ++row) {
      const F inverse = Isa::Set(1.0f / total[row]);
      float* const out = block.out + row / block.heads_per_kv_head * block.stride +
                         row % block.heads_per_kv_head * block.head_dim;
      for (int64_t d = 0; d < block.head_dim; d += 16) {
        Isa::StoreFirst(out + d, Isa::Mul(Isa::Load(sums + row * padded + d), inverse),
                        block.head_dim - d);
      }
    }
  }
};

template <typename Isa>
void AttendKernel(const AttentionBlock& block) {
  Attend<Isa>(block).Run();
}

}  // namespace nibble::cpu
