#pragma once

#include "backend/cpu/kernels/attention-inl.h"
#include "base/math.h"

// Attention over int8 pages. Queries, and the probabilities of a span times the scales of its
// values, become 16-bit fixed point in two int8 planes, as activations of packed weights do; they
// are multiplied with the bytes of the pages in exact integer arithmetic, whose result does not
// depend on the order of summation. A sum over a span fits 32 bits: 512 keys * 127 * 32639 < 2^31.
namespace nibble::cpu {

// x in 16-bit fixed point: x = scale * (256 * high + low), `sum` the sum of all the numbers in
// parentheses. Writes whole vectors, zeros from `count` on.
template <typename Isa>
NIBBLE_INLINE void FixValues(const float* x, int64_t count, int8_t* high, int8_t* low, float* scale,
                             int32_t* sum) {
  auto magnitude = Isa::ZeroI();
  for (int64_t k = 0; k < count; k += 16) {
    magnitude = Isa::MaxI(magnitude, Isa::Magnitude(Isa::LoadFirst(x + k, count - k)));
  }
  const int32_t bits = Isa::MaxLaneI(magnitude);
  const float largest = __builtin_bit_cast(float, bits);
  const bool finite = bits < 0x7f800000;
  const bool zero = !finite || largest < 1e-30f;  // too small to divide by
  *scale = !finite ? __builtin_nanf("") : zero ? 0.0f : largest / 32639.0f;
  const auto inverse = Isa::Set(zero ? 0.0f : 32639.0f / largest);
  auto total = Isa::ZeroI();
  for (int64_t k = 0; k < count; k += 16) {
    auto fixed = Isa::ZeroI();
    if (!zero) fixed = Isa::Round(Isa::Mul(Isa::LoadFirst(x + k, count - k), inverse));
    const auto upper = Isa::template ShiftRight<8>(Isa::AddI(fixed, Isa::SetI(128)));
    const auto lower = Isa::AddI(fixed, Isa::MulI(upper, Isa::SetI(-256)));
    total = Isa::AddI(total, fixed);
    Isa::StoreBytes(high + k, upper);
    Isa::StoreBytes(low + k, lower);
  }
  *sum = Isa::SumI(total);
}

// `Self` (CRTP) may override the two products, with the same bits.
template <typename Isa, typename Self>
struct AttendInt8By : AttendRows<Isa> {
  using Base = AttendRows<Isa>;
  using F = typename Isa::F;
  using I = typename Isa::I;
  using B = typename Isa::B;
  // Register blocking: rows at once, and vectors of keys or columns with them; two sums for each
  // pair.
  static constexpr bool kManyRegisters = Isa::FloatVectors(6) == 4;
  static constexpr int kRun = kManyRegisters ? 6 : 2;
  static constexpr int kVectors = kManyRegisters ? 2 : 1;
  static constexpr int64_t kFewRows = 2 * kRun;
  using Base::block;
  using Base::end;
  using Base::num_rows;
  using Base::padded;
  using Base::scores;

  int64_t row_dim;  // head_dim rounded up to 16
  int64_t slots;    // block_size rounded up to 4
  bool in_place;    // groups of 16 tokens lie inside KV blocks
  float* working;
  float* key_scales;     // [512] of a span
  float* value_scales;   // [512]
  float* query_scales;   // [rows]
  int32_t* query_sums;   // [rows]
  float* weight_scales;  // [rows], of the probabilities
  int32_t* weight_sums;  // [rows]
  int8_t* queries;       // [rows][2][row_dim]
  int8_t* weights;       // [rows][2][512]
  char* keys;            // [row_dim / 4][64][4], if not in place
  char* values;          // [16][row_dim][4]

  explicit AttendInt8By(const AttentionBlock& b) : Base(b) {
    row_dim = RoundUp(b.head_dim, 16);
    slots = RoundUp(b.block_size, 4);
    in_place = b.block_size % 16 == 0;
    working = scores + num_rows * kKeySpan;
    key_scales = working + 2 * this->PartialFloats();
    value_scales = key_scales + kKeySpan;
    query_scales = value_scales + kKeySpan;
    query_sums = reinterpret_cast<int32_t*>(query_scales + num_rows);
    weight_scales = query_scales + 2 * num_rows;
    weight_sums = reinterpret_cast<int32_t*>(query_scales + 3 * num_rows);
    queries = reinterpret_cast<int8_t*>(query_scales + 4 * num_rows);
    weights = queries + num_rows * 2 * row_dim;
    keys = reinterpret_cast<char*>(weights + num_rows * 2 * kKeySpan);
    values = keys + kKeyBlock * row_dim;
  }

  KeyGroups KeysInPlace(int64_t first) const {
    return this->InPlace(first, block.key_part, 4, slots * 4);
  }
  KeyGroups ValuesInPlace(int64_t first) const {
    return this->InPlace(first, block.value_part, row_dim, row_dim * 4);
  }
  // The same as lines of 64 bytes.
  KeyGroups ValueLines(int64_t first) const {
    KeyGroups groups = ValuesInPlace(first);
    groups.step = 64;
    return groups;
  }

  NIBBLE_INLINE KeyGroups CopyKeys(int64_t first) {
    for (int64_t key = 0; key < kKeyBlock && first + key < end; ++key) {
      const char* const from =
          this->Page(first + key, block.key_part) + (first + key) % block.block_size * 4;
      for (int64_t word = 0; word < row_dim / 4; ++word) {
        __builtin_memcpy(keys + (word * kKeyBlock + key) * 4, from + word * slots * 4, 4);
      }
    }
    KeyGroups groups{};
    for (int g = 0; g < 4; ++g) groups.base[g] = keys + 64 * g;
    groups.step = kKeyBlock * 4;
    return groups;
  }

  NIBBLE_INLINE KeyGroups CopyValues(int64_t first) {
    for (int64_t key = 0; key < kKeyBlock && first + key < end; ++key) {
      const int64_t slot = (first + key) % block.block_size;
      const char* const from =
          this->Page(first + key, block.value_part) + slot / 4 * row_dim * 4 + slot % 4;
      char* const to = values + key / 4 * row_dim * 4 + key % 4;
      for (int64_t d = 0; d < row_dim; ++d) to[4 * d] = from[4 * d];
    }
    KeyGroups groups{};
    for (int g = 0; g < 4; ++g) groups.base[g] = values + g * 16 * row_dim;
    groups.step = row_dim * 4;
    return groups;
  }

  // Gathers the scales of the keys, or values, of [first, last) in a span; entries after the end of
  // the context are stale.
  NIBBLE_INLINE void GatherScales(int64_t part, int64_t first, int64_t last, float* scales) const {
    const int64_t together = in_place ? 16 : 1;
    for (int64_t key = first; key < last && key < end; key += together) {
      const char* const from = this->Page(key, part) + slots * row_dim + key % block.block_size * 4;
      float* const to = scales + key % kKeySpan;
      if (in_place) {
        Isa::Store(to, Isa::Load(reinterpret_cast<const float*>(from)));
      } else {
        __builtin_memcpy(to, from, 4);
      }
    }
  }
  NIBBLE_INLINE void PrefetchScales(int64_t first) const {
    for (int64_t key = first; in_place && key < first + kKeySpan && key < end; key += 16) {
      const int64_t offset = slots * row_dim + key % block.block_size * 4;
      __builtin_prefetch(this->Page(key, block.key_part) + offset, 0, 2);
      __builtin_prefetch(this->Page(key, block.value_part) + offset, 0, 2);
    }
  }

  static NIBBLE_INLINE I Unsplit(I high, I low) {
    return Isa::AddI(Isa::template ShiftLeft<8>(high), low);
  }
  // The correction of a dot product for the offset of 128 in the bytes of the pages.
  static NIBBLE_INLINE I MinusExcess(int32_t sum) { return Isa::SetI(-128 * sum); }

  // Scores of the keys [first, first + 64) of the span that starts at `start`. With kAhead,
  // prefetches the cache lines of `next` meanwhile.
  template <bool kAhead>
  struct Scores {
    const AttendInt8By& a;
    KeyGroups from;
    KeyGroups next;
    int64_t start;
    int64_t first;
    float scale;

    template <int kTokens>
    NIBBLE_INLINE void Run(int64_t row) const {
      const int64_t limit = a.Limit(row + kTokens - 1) - first;
      if (a.Oldest(row) >= first + kKeyBlock) return;
      const int8_t* query[kTokens];
      for (int i = 0; i < kTokens; ++i) query[i] = a.queries + (row + i) * 2 * a.row_dim;
      for (int64_t g = 0; g < 4 && 16 * g < limit; g += kVectors) {
        I high[kTokens][kVectors];
        I low[kTokens][kVectors];
        const char* base[kVectors];
        const char* ahead[kVectors];
        NIBBLE_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          base[v] = from.base[g + v];
          ahead[v] = next.base[g + v];
          NIBBLE_UNROLL
          for (int i = 0; i < kTokens; ++i) high[i][v] = low[i][v] = Isa::ZeroI();
        }
        for (int64_t word = 0; word < a.row_dim / 4; ++word) {
          B key[kVectors];
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            if constexpr (kAhead) __builtin_prefetch(ahead[v] + word * next.step, 0, 2);
            key[v] = Isa::LoadB(reinterpret_cast<const uint8_t*>(base[v] + word * from.step));
          }
          NIBBLE_UNROLL
          for (int i = 0; i < kTokens; ++i) {
            NIBBLE_UNROLL
            for (int v = 0; v < kVectors; ++v) {
              high[i][v] = Isa::DotBytes(high[i][v], key[v], query[i] + 4 * word);
              low[i][v] = Isa::DotBytes(low[i][v], key[v], query[i] + a.row_dim + 4 * word);
            }
          }
        }
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) {
          const I excess = MinusExcess(a.query_sums[row + i]);
          const F factor = Isa::Set(a.query_scales[row + i] * scale);
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            const int64_t key = first - start + 16 * (g + v);
            const F dot = Isa::ToFloat(Isa::AddI(Unsplit(high[i][v], low[i][v]), excess));
            Isa::Store(a.scores + (row + i) * kKeySpan + key,
                       Isa::Mul(Isa::Mul(dot, factor), Isa::Load(a.key_scales + key)));
          }
        }
      }
    }
  };

  // sums, as integers, += probabilities times the values of [first, first + 64).
  template <bool kAhead>
  struct Weigh {
    const AttendInt8By& a;
    KeyGroups from;
    KeyGroups next;
    int64_t start;
    int64_t first;

    template <int kTokens>
    NIBBLE_INLINE void Run(int64_t row) const {
      const int64_t last = a.Limit(row + kTokens - 1) - first;
      const int64_t limit = last < kKeyBlock ? last : kKeyBlock;
      if (a.Oldest(row) >= first + kKeyBlock) return;
      const int8_t* weight[kTokens];
      for (int i = 0; i < kTokens; ++i) {
        weight[i] = a.weights + (row + i) * 2 * kKeySpan + first - start;
      }
      for (int64_t column = 0; column < a.row_dim; column += 16 * kVectors) {
        I high[kTokens][kVectors];
        I low[kTokens][kVectors];
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) {
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            high[i][v] = Isa::ZeroI();
            low[i][v] = Isa::LoadInts(
                reinterpret_cast<const uint8_t*>(a.sums + (row + i) * a.padded + column + 16 * v));
          }
        }
        for (int64_t g = 0; 16 * g < limit; ++g) {
          const int64_t count = limit - 16 * g < 16 ? limit - 16 * g : 16;
          const char* const base = from.base[g] + column * 4;
          for (int64_t k = 0; k < count; k += 4) {
            const int64_t offset = k / 4 * from.step;
            B value[kVectors];
            NIBBLE_UNROLL
            for (int v = 0; v < kVectors; ++v) {
              if constexpr (kAhead) {
                const int64_t line = (offset + column * 4) / 64 + v;
                __builtin_prefetch(next.base[g] + line * next.step, 0, 2);
              }
              value[v] = Isa::LoadB(reinterpret_cast<const uint8_t*>(base + offset + 64 * v));
            }
            NIBBLE_UNROLL
            for (int i = 0; i < kTokens; ++i) {
              const int8_t* const four = weight[i] + 16 * g + k;
              NIBBLE_UNROLL
              for (int v = 0; v < kVectors; ++v) {
                high[i][v] = Isa::DotBytes(high[i][v], value[v], four);
                low[i][v] = Isa::DotBytes(low[i][v], value[v], four + kKeySpan);
              }
            }
          }
        }
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) {
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            Isa::Store(a.sums + (row + i) * a.padded + column + 16 * v,
                       Isa::AsFloat(Unsplit(high[i][v], low[i][v])));
          }
        }
      }
    }
  };

  // Probabilities times the scales of the values, in fixed point.
  NIBBLE_INLINE void FixWeights(int64_t row, int64_t start, int64_t first, int64_t last) const {
    float* const p = this->scores + row * kKeySpan;
    const int64_t begin = first - start;
    const int64_t oldest = this->Oldest(row) - start;
    const int64_t limit = this->Limit(row) - start;
    for (int64_t key = begin; key < last - start; key += 16) {
      // The scale of a masked value may be anything, also infinity or NaN, whose product with zero
      // is NaN.
      const F scale =
          Isa::Select(Isa::Load(value_scales + key), Isa::Zero(), oldest - key, limit - key);
      Isa::Store(p + key, Isa::Mul(Isa::Load(p + key), scale));
    }
    int8_t* const planes = weights + row * 2 * kKeySpan + begin;
    FixValues<Isa>(p + begin, last - first, planes, planes + kKeySpan, weight_scales + row,
                   weight_sums + row);
  }

  NIBBLE_INLINE void ScoreKeys(int64_t key, int64_t start, int64_t first, int64_t last,
                               float scale) {
    const KeyGroups here = in_place ? KeysInPlace(key) : CopyKeys(key);
    if (in_place && num_rows <= kFewRows) {
      const bool more = key + kKeyBlock < last;
      const KeyGroups next = more ? KeysInPlace(key + kKeyBlock) : ValueLines(first);
      ForRuns<kRun>(num_rows, Scores<true>{*this, here, next, start, key, scale});
    } else {
      ForRuns<kRun>(num_rows, Scores<false>{*this, here, {}, start, key, scale});
    }
  }

  NIBBLE_INLINE void WeighValues(int64_t key, int64_t start, int64_t last, bool more) {
    const KeyGroups here = in_place ? ValuesInPlace(key) : CopyValues(key);
    if (in_place && num_rows <= kFewRows) {
      const KeyGroups next = key + kKeyBlock < last ? ValueLines(key + kKeyBlock)
                             : more                 ? KeysInPlace(last)
                                                    : ValueLines(key);
      ForRuns<kRun>(num_rows, Weigh<true>{*this, here, next, start, key});
    } else {
      ForRuns<kRun>(num_rows, Weigh<false>{*this, here, {}, start, key});
    }
  }

  void Run() {
    Self& self = static_cast<Self&>(*this);
    for (int64_t row = 0; row < num_rows; ++row) {
      int8_t* const planes = queries + row * 2 * row_dim;
      FixValues<Isa>(block.q + this->RowOffset(row), block.head_dim, planes, planes + row_dim,
                     query_scales + row, query_sums + row);
    }
    const float scale = block.scale;
    this->ForSpans(working, [&](int64_t span, bool more) {
      const int64_t start = span * kKeySpan;
      const int64_t oldest = this->Oldest(0) / kKeyBlock * kKeyBlock;
      const int64_t first = oldest > start ? oldest : start;
      const int64_t stop = end < start + kKeySpan ? end : start + kKeySpan;
      const int64_t last = RoundUp(stop, kKeyBlock);
      this->ClearSums();
      GatherScales(block.key_part, first, last, key_scales);
      GatherScales(block.value_part, first, last, value_scales);
      if (more) PrefetchScales(start + kKeySpan);
      for (int64_t key = first; key < last; key += kKeyBlock) {
        self.ScoreKeys(key, start, first, last, scale);
      }
      for (int64_t row = 0; row < num_rows; ++row) {
        this->Softmax(row, start, first, last);
        FixWeights(row, start, first, last);
      }
      for (int64_t key = first; key < last; key += kKeyBlock) {
        self.WeighValues(key, start, last, more);
      }
      for (int64_t row = 0; row < num_rows; ++row) {
        const I excess = MinusExcess(weight_sums[row]);
        const F factor = Isa::Set(weight_scales[row]);
        for (int64_t d = 0; d < padded; d += 16) {
          float* const sum = this->sums + row * padded + d;
          const I dot = Isa::AddI(Isa::LoadInts(reinterpret_cast<const uint8_t*>(sum)), excess);
          Isa::Store(sum, Isa::Mul(Isa::ToFloat(dot), factor));
        }
      }
    });
  }
};

template <typename Isa>
struct AttendInt8 final : AttendInt8By<Isa, AttendInt8<Isa>> {
  using AttendInt8By<Isa, AttendInt8<Isa>>::AttendInt8By;
};

}  // namespace nibble::cpu
