#pragma once

#include "backend/cpu/kernels/dense-inl.h"
#include "backend/cpu/kernels/rows-inl.h"
#include "backend/cpu/kernels/simd.h"
#include "backend/cpu/kernels/table.h"
#include "base/math.h"

// Attention of a block of queries that share a KV head, over float and BF16 pages, and the parts
// that it shares with attention over int8 pages.
//
// The context is cut at fixed positions into spans of 512 keys. For each span, a query row gets all
// its scores, their softmax, and the sum of the values weighted by it (a partial result, as in
// split-K or flash decoding); then the partial results are combined in order of spans. A score is
// summed over the head dimension in order, a weighted sum over the keys in order; a masked key has
// a probability of exactly zero, and a span in which all keys are masked is skipped. So a row's
// bits do not depend on which rows share the call, on whether keys are read in place or gathered
// first, or on which thread computed which span.
namespace nibble::cpu {

// The keys or values of 64 positions as four groups of 16, in pages or in a gathered copy. Groups
// that start after the end of the context repeat the last valid one.
struct KeyGroups {
  const char* base[4];
  int64_t step;  // bytes between words of the keys, or between rows of the values
};

template <typename Isa>
NIBBLE_INLINE float ExpOne(float x) {
  float lanes[16];
  Isa::Store(lanes, Exp<Isa>(Isa::Set(x)));
  return lanes[0];
}

// The query rows of an AttentionBlock with their scores and partial results, for any page type.
template <typename Isa>
struct AttendRows {
  using F = typename Isa::F;
  static constexpr float kMinusInfinity = -__builtin_huge_valf();

  const AttentionBlock& block;
  int64_t num_rows;  // token-major: row i * heads_per_kv_head + j is token i, head j
  int64_t padded;    // head_dim rounded up to whole tiles
  int64_t end;       // one past the last position that the last row sees
  float* scores;     // [rows][512] of a span, then probabilities

  // The partial result of one span, or of several combined.
  float* sums = nullptr;     // [rows][padded]
  float* largest = nullptr;  // [rows] score; minus infinity where a row sees no key
  float* total = nullptr;    // [rows] of exp(score - largest)

  explicit AttendRows(const AttentionBlock& b) : block(b) {
    num_rows = b.num_tokens * b.heads_per_kv_head;
    padded = RoundUp(b.head_dim, kTileRows);
    end = b.first_position + b.num_tokens;
    scores = b.scratch;
  }

  int64_t PartialFloats() const { return num_rows * (padded + 2); }
  void SetPartial(float* partial) {
    sums = partial;
    largest = partial + num_rows * padded;
    total = largest + num_rows;
  }

  NIBBLE_INLINE void ClearSums() const {
    for (int64_t i = 0; i < num_rows * padded; i += 16) Isa::Store(sums + i, Isa::Zero());
  }

  // The token of `row`, counted from the first token of the block. 32-bit division is faster.
  NIBBLE_INLINE int64_t Token(int64_t row) const {
    return static_cast<uint32_t>(row) / static_cast<uint32_t>(block.heads_per_kv_head);
  }
  // Offset of a row in the queries, and in the result.
  NIBBLE_INLINE int64_t RowOffset(int64_t row) const {
    const int64_t token = Token(row);
    return token * block.stride + (row - token * block.heads_per_kv_head) * block.head_dim;
  }
  // Row `row` sees the keys of positions [Oldest(row), Limit(row)).
  NIBBLE_INLINE int64_t Limit(int64_t row) const { return block.first_position + Token(row) + 1; }
  NIBBLE_INLINE int64_t Oldest(int64_t row) const {
    const int64_t oldest = Limit(row) - block.sliding_window;
    return block.sliding_window > 0 && oldest > 0 ? oldest : 0;
  }

  // Address of the part at `offset` in the KV block of `position`.
  NIBBLE_INLINE const char* Page(int64_t position, int64_t offset) const {
    return block.pages + block.blocks[position / block.block_size] * block.block_bytes + offset;
  }
  // Groups read in place, 16 tokens inside one KV block each. `token_bytes`: distance between
  // tokens of a group.
  NIBBLE_INLINE KeyGroups InPlace(int64_t first, int64_t offset, int64_t token_bytes,
                                  int64_t step) const {
    KeyGroups groups{};
    groups.step = step;
    for (int g = 0; g < 4; ++g) {
      const int64_t position = first + 16 * g;
      groups.base[g] = position < end
                           ? Page(position, offset) + position % block.block_size * token_bytes
                           : groups.base[g > 0 ? g - 1 : 0];
    }
    return groups;
  }

  // Turns a row of scores into probabilities over the keys it sees of [first, last), both multiples
  // of 64 in the span that starts at `start`; zeros elsewhere. Stores the largest score and the
  // total.
  NIBBLE_INLINE void Softmax(int64_t row, int64_t start, int64_t first, int64_t last) const {
    float* const score = scores + row * kKeySpan - start;
    const int64_t oldest = Oldest(row);
    const int64_t limit = Limit(row);
    const auto within = [&](int64_t key) NIBBLE_LAMBDA {
      return key < first ? first : key < last ? key : last;
    };
    const int64_t begin = within(oldest / kKeyBlock * kKeyBlock);
    const int64_t stop = within(RoundUp(limit, kKeyBlock));
    const auto visible = [&](F value, F other, int64_t key) NIBBLE_LAMBDA {
      return Isa::Select(value, other, oldest - key, limit - key);
    };
    const F minus_infinity = Isa::Set(kMinusInfinity);
    F most[4] = {minus_infinity, minus_infinity, minus_infinity, minus_infinity};
    for (int64_t key = begin; key < stop; key += kKeyBlock) {
      const bool whole = oldest <= key && key + kKeyBlock <= limit;
      NIBBLE_UNROLL
      for (int v = 0; v < 4; ++v) {
        F s = Isa::Load(score + key + 16 * v);
        if (!whole) s = visible(s, minus_infinity, key + 16 * v);
        most[v] = Isa::Max(most[v], s);
      }
    }
    if (block.partials == nullptr) {  // soon to be written
      const float* const out = block.out + RowOffset(row);
      for (int64_t d = 0; d < block.head_dim; d += 16) __builtin_prefetch(out + d, 1, 2);
    }
    const float here =
        Isa::MaxLane(Isa::Max(Isa::Max(most[0], most[1]), Isa::Max(most[2], most[3])));
    // All keys masked: exp(-inf - 0) = 0.
    const F minus_base = Isa::Set(here == kMinusInfinity ? 0.0f : -here);
    F sum[4] = {Isa::Zero(), Isa::Zero(), Isa::Zero(), Isa::Zero()};
    for (int64_t key = first; key < begin; key += 16) Isa::Store(score + key, Isa::Zero());
    for (int64_t key = begin; key < stop; key += kKeyBlock) {
      const bool whole = oldest <= key && key + kKeyBlock <= limit;
      NIBBLE_UNROLL
      for (int v = 0; v < 4; ++v) {
        F p = Exp<Isa>(Isa::Add(Isa::Load(score + key + 16 * v), minus_base));
        if (!whole) p = visible(p, Isa::Zero(), key + 16 * v);
        Isa::Store(score + key + 16 * v, p);
        sum[v] = Isa::Add(sum[v], p);
      }
    }
    for (int64_t key = stop; key < last; key += 16) Isa::Store(score + key, Isa::Zero());
    largest[row] = here;
    total[row] = Isa::Sum(Isa::Add(Isa::Add(sum[0], sum[1]), Isa::Add(sum[2], sum[3])));
  }

  // Combines this partial result with that of a later span.
  void Fold(const float* partial) const {
    const float* const other_largest = partial + num_rows * padded;
    const float* const other_total = other_largest + num_rows;
    for (int64_t row = 0; row < num_rows; ++row) {
      const float before = largest[row];
      const float here = other_largest[row];
      if (here == kMinusInfinity) continue;
      float keep = 1.0f;
      float add = 1.0f;
      if (before == kMinusInfinity) {
        keep = 0.0f;
      } else if (before >= here) {
        add = ExpOne<Isa>(here - before);
      } else {
        keep = ExpOne<Isa>(before - here);
      }
      largest[row] = before >= here ? before : here;
      total[row] = total[row] * keep + other_total[row] * add;
      const F keeps = Isa::Set(keep);
      const F adds = Isa::Set(add);
      float* const sum = sums + row * padded;
      for (int64_t d = 0; d < padded; d += 16) {
        const F other = Isa::Load(partial + row * padded + d);
        Isa::Store(sum + d, Isa::Fma(other, adds, Isa::Mul(Isa::Load(sum + d), keeps)));
      }
    }
  }

  // What the sums of a row are multiplied with where its softmax has a sink besides.
  float OverSink(int64_t row) const {
    const float sink = block.sinks[row - Token(row) * block.heads_per_kv_head];
    const float before = largest[row];
    if (before >= sink) return 1.0f / (total[row] + ExpOne<Isa>(sink - before));
    const float keep = ExpOne<Isa>(before - sink);
    return keep / (total[row] * keep + 1.0f);
  }

  void Finish() const {
    for (int64_t row = 0; row < num_rows; ++row) {
      const F inverse = Isa::Set(block.sinks == nullptr ? 1.0f / total[row] : OverSink(row));
      float* const out = block.out + RowOffset(row);
      for (int64_t d = 0; d < block.head_dim; d += 16) {
        Isa::StoreFirst(out + d, Isa::Mul(Isa::Load(sums + row * padded + d), inverse),
                        block.head_dim - d);
      }
    }
  }

  // Runs `span(index, next)` for each span of the block and stores or combines the partial results;
  // `next` tells whether another span follows, whose keys are worth prefetching. `working`: scratch
  // for two partial results.
  template <typename Span>
  NIBBLE_INLINE void ForSpans(float* working, const Span& span) {
    for (int64_t index = block.first_span; index < block.last_span; ++index) {
      const bool first = index == block.first_span;
      const bool next = index + 1 < block.last_span;
      if (block.partials != nullptr) {
        SetPartial(block.partials + (index - block.first_span) * PartialFloats());
        span(index, next);
      } else if (first) {
        SetPartial(working);
        span(index, next);
      } else {
        SetPartial(working + PartialFloats());
        span(index, next);
        SetPartial(working);
        Fold(working + PartialFloats());
      }
    }
    if (block.partials == nullptr) Finish();
  }
};

// Unpacks element kElement of the words of 16 keys.
template <typename Isa, int kElement>
NIBBLE_INLINE typename Isa::F KeyElement(const float* words) {
  return Isa::Load(words);
}
template <typename Isa, int kElement>
NIBBLE_INLINE typename Isa::F KeyElement(const uint16_t* words) {
  const auto both = Isa::LoadInts(reinterpret_cast<const uint8_t*>(words));
  if constexpr (kElement == 0) {
    return Isa::AsFloat(Isa::template ShiftLeft<16>(both));
  } else {
    return Isa::AsFloat(Isa::AndI(both, Isa::SetI(static_cast<int32_t>(0xffff0000u))));
  }
}

template <typename Isa, typename T>
struct Attend : AttendRows<Isa> {
  using Base = AttendRows<Isa>;
  using F = typename Isa::F;
  static constexpr int64_t kSize = static_cast<int64_t>(sizeof(T));
  static constexpr int64_t kPerWord = 4 / kSize;
  // Up to kFewRows rows, widening keys and values each time they are read is cheaper than widening
  // them once for all rows.
  static constexpr int kRun = Isa::kFloatTokens;
  static constexpr int64_t kFewRows = 2 * kRun;
  using Base::block;
  using Base::end;
  using Base::num_rows;
  using Base::padded;
  using Base::scores;

  bool pages_fit;  // groups of 16 tokens lie inside KV blocks
  bool in_place;   // keys and values are read where they lie
  int64_t row_bytes;
  float* keys;     // [head_dim][64], if not in place
  float* values;   // [64][padded]
  float* queries;  // transposed: [head_dim][n] for each batch of n <= kRun rows (ForRuns)
  float* working;

  explicit Attend(const AttentionBlock& b) : Base(b) {
    row_bytes = CeilDiv(b.head_dim, kPerWord) * 4;
    pages_fit = b.block_size % 16 == 0;
    const bool whole_tiles = padded == b.head_dim;
    in_place = pages_fit && whole_tiles && (kPerWord == 1 || num_rows <= kFewRows);
    keys = scores + num_rows * kKeySpan;
    values = keys + kKeyBlock * (row_bytes / 4 * kPerWord);
    queries = values + kKeyBlock * padded;
    working = queries + num_rows * b.head_dim;
  }

  KeyGroups KeysInPlace(int64_t first) const {
    return this->InPlace(first, block.key_part, 4, block.block_size * 4);
  }
  KeyGroups ValuesInPlace(int64_t first) const {
    return this->InPlace(first, block.value_part, row_bytes, row_bytes);
  }

  // The same as lines of 64 bytes.
  KeyGroups ValueLines(int64_t first) const {
    KeyGroups groups = ValuesInPlace(first);
    groups.step = 64;
    return groups;
  }

  static NIBBLE_INLINE F LoadPage(const float* p, int64_t count) {
    return Isa::LoadFirst(p, count);
  }
  static NIBBLE_INLINE F LoadPage(const uint16_t* p, int64_t count) {
    return Isa::LoadFirstBf16(p, count);
  }
  static NIBBLE_INLINE float ToFloat(float value) { return value; }
  static NIBBLE_INLINE float ToFloat(uint16_t value) {
    return __builtin_bit_cast(float, static_cast<uint32_t>(value) << 16);
  }

  // Widens the keys [first, first + 64) to floats, element by element; entries after the end of the
  // context are stale.
  NIBBLE_INLINE KeyGroups WidenKeys(int64_t first) {
    if (pages_fit) {
      const KeyGroups from = KeysInPlace(first);
      for (int64_t word = 0; word < row_bytes / 4; ++word) {
        NIBBLE_UNROLL
        for (int g = 0; g < 4; ++g) {
          const T* const words = reinterpret_cast<const T*>(from.base[g] + word * from.step);
          float* const to = keys + word * kPerWord * kKeyBlock + 16 * g;
          Isa::Store(to, KeyElement<Isa, 0>(words));
          if constexpr (kPerWord == 2) Isa::Store(to + kKeyBlock, KeyElement<Isa, 1>(words));
        }
      }
    } else {
      for (int64_t key = 0; key < kKeyBlock && first + key < end; ++key) {
        const char* const from =
            this->Page(first + key, block.key_part) + (first + key) % block.block_size * 4;
        for (int64_t d = 0; d < block.head_dim; ++d) {
          T value;
          __builtin_memcpy(
              &value, from + d / kPerWord * block.block_size * 4 + d % kPerWord * kSize, sizeof(T));
          keys[d * kKeyBlock + key] = ToFloat(value);
        }
      }
    }
    KeyGroups groups{};
    for (int g = 0; g < 4; ++g) groups.base[g] = reinterpret_cast<const char*>(keys + 16 * g);
    groups.step = kKeyBlock * 4;
    return groups;
  }

  NIBBLE_INLINE KeyGroups WidenValues(int64_t first) {
    for (int64_t key = 0; key < kKeyBlock && first + key < end; ++key) {
      const T* const from = reinterpret_cast<const T*>(
          this->Page(first + key, block.value_part) + (first + key) % block.block_size * row_bytes);
      for (int64_t d = 0; d < padded; d += 16) {
        Isa::Store(values + key * padded + d, LoadPage(from + d, block.head_dim - d));
      }
    }
    KeyGroups groups{};
    for (int g = 0; g < 4; ++g) {
      groups.base[g] = reinterpret_cast<const char*>(values + 16 * g * padded);
    }
    groups.step = padded * 4;
    return groups;
  }

  // Scores of the keys [first, first + 64) of the span that starts at `start`. With kAhead,
  // prefetches the cache lines of `next` meanwhile.
  template <typename K, bool kAhead>
  struct Scores {
    const Attend& a;
    KeyGroups from;
    KeyGroups next;
    int64_t start;
    int64_t first;
    F scale;

    template <int kTokens>
    NIBBLE_INLINE void Run(int64_t row) const {
      constexpr int64_t kWord = 4 / static_cast<int64_t>(sizeof(K));
      constexpr int kAll = Isa::FloatVectors(kTokens);
      // Keys that are widened on the fly take registers of their own.
      constexpr int kGroups = kWord == 2 && kAll > 2 && kTokens * kAll > 16 ? 2 : kAll;
      const int64_t limit = a.Limit(row + kTokens - 1) - first;
      if (a.Oldest(row) >= first + kKeyBlock) return;
      for (int64_t g = 0; g < 4 && 16 * g < limit;) {
        if (kGroups > 2 && limit - 16 * g <= 32) {
          Multiply<kTokens, (kGroups > 2 ? 2 : 1)>(row, g);
          g += 2;
        } else {
          Multiply<kTokens, kGroups>(row, g);
          g += kGroups;
        }
      }
    }

    template <int kTokens, int kGroups>
    NIBBLE_INLINE void Multiply(int64_t row, int64_t g) const {
      constexpr int64_t kWord = 4 / static_cast<int64_t>(sizeof(K));
      const float* query = a.queries + row * a.block.head_dim;
      const char* base[kGroups];
      const char* ahead[kGroups];
      F dots[kTokens][kGroups];
      NIBBLE_UNROLL
      for (int v = 0; v < kGroups; ++v) {
        base[v] = from.base[g + v];
        ahead[v] = next.base[g + v];
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) dots[i][v] = Isa::Zero();
      }
      const auto add = [&](const F(&key)[kGroups]) NIBBLE_LAMBDA {
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) {
          const F element = Isa::Set(query[i]);
          NIBBLE_UNROLL
          for (int v = 0; v < kGroups; ++v) dots[i][v] = Isa::Fma(key[v], element, dots[i][v]);
        }
        query += kTokens;
      };
      const int64_t words = a.block.head_dim / kWord;
      for (int64_t word = 0; word < words; ++word) {
        F key[kGroups];
        NIBBLE_UNROLL
        for (int v = 0; v < kGroups; ++v) {
          if constexpr (kAhead) __builtin_prefetch(ahead[v] + word * next.step, 0, 2);
          key[v] = KeyElement<Isa, 0>(reinterpret_cast<const K*>(base[v] + word * from.step));
        }
        add(key);
        if constexpr (kWord == 2) {
          NIBBLE_UNROLL
          for (int v = 0; v < kGroups; ++v) {
            key[v] = KeyElement<Isa, 1>(reinterpret_cast<const K*>(base[v] + word * from.step));
          }
          add(key);
        }
      }
      NIBBLE_UNROLL
      for (int i = 0; i < kTokens; ++i) {
        NIBBLE_UNROLL
        for (int v = 0; v < kGroups; ++v) {
          Isa::Store(a.scores + (row + i) * kKeySpan + first - start + 16 * (g + v),
                     Isa::Mul(dots[i][v], scale));
        }
      }
    }
  };

  // sums += probabilities times the values of [first, first + 64).
  template <typename V, bool kAhead>
  struct Weigh {
    const Attend& a;
    KeyGroups from;
    KeyGroups next;
    int64_t start;
    int64_t first;

    template <int kTokens>
    NIBBLE_INLINE void Run(int64_t row) const {
      constexpr int kVectors = Isa::FloatVectors(kTokens);
      constexpr int64_t kStripBytes = 16 * kVectors * static_cast<int64_t>(sizeof(V));
      const int64_t last = a.Limit(row + kTokens - 1) - first;
      const int64_t limit = last < kKeyBlock ? last : kKeyBlock;
      if (a.Oldest(row) >= first + kKeyBlock) return;
      const float* probabilities[kTokens];
      for (int i = 0; i < kTokens; ++i) {
        probabilities[i] = a.scores + (row + i) * kKeySpan + first - start;
      }
      for (int64_t column = 0; column < a.padded; column += 16 * kVectors) {
        F sums[kTokens][kVectors];
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) {
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            sums[i][v] = Isa::Load(a.sums + (row + i) * a.padded + column + 16 * v);
          }
        }
        for (int64_t g = 0; 16 * g < limit; ++g) {
          const int64_t count = limit - 16 * g < 16 ? limit - 16 * g : 16;
          const char* value = from.base[g] + column * static_cast<int64_t>(sizeof(V));
          // Prefetches one line per line read; `next` has equally many, keys or values.
          const char* const ahead = next.base[g];
          for (int64_t k = 0; k < count; ++k, value += from.step) {
            F weights[kVectors];
            NIBBLE_UNROLL
            for (int v = 0; v < kVectors; ++v) {
              weights[v] = LoadWeights<Isa>(reinterpret_cast<const V*>(value) + 16 * v);
            }
            if constexpr (kAhead) {
              NIBBLE_UNROLL
              for (int64_t line = 0; line < kStripBytes; line += 64) {
                const int64_t offset =
                    k * from.step + column * static_cast<int64_t>(sizeof(V)) + line;
                __builtin_prefetch(ahead + offset / 64 * next.step, 0, 2);
              }
            }
            NIBBLE_UNROLL
            for (int i = 0; i < kTokens; ++i) {
              const F p = Isa::Set(probabilities[i][16 * g + k]);
              NIBBLE_UNROLL
              for (int v = 0; v < kVectors; ++v) sums[i][v] = Isa::Fma(weights[v], p, sums[i][v]);
            }
          }
        }
        NIBBLE_UNROLL
        for (int i = 0; i < kTokens; ++i) {
          NIBBLE_UNROLL
          for (int v = 0; v < kVectors; ++v) {
            Isa::Store(a.sums + (row + i) * a.padded + column + 16 * v, sums[i][v]);
          }
        }
      }
    }
  };

  struct PackQueries {
    const Attend& a;

    template <int kTokens>
    NIBBLE_INLINE void Run(int64_t row) const {
      for (int64_t i = 0; i < kTokens; ++i) {
        const float* const from = a.block.q + a.RowOffset(row + i);
        float* const to = a.queries + row * a.block.head_dim + i;
        for (int64_t d = 0; d < a.block.head_dim; ++d) to[d * kTokens] = from[d];
      }
    }
  };

  void Run() {
    ForRuns<kRun>(num_rows, PackQueries{*this});
    const F scale = Isa::Set(block.scale);
    this->ForSpans(working, [&](int64_t span, bool more) {
      const int64_t start = span * kKeySpan;
      const int64_t oldest = this->Oldest(0) / kKeyBlock * kKeyBlock;
      const int64_t first = oldest > start ? oldest : start;
      const int64_t stop = end < start + kKeySpan ? end : start + kKeySpan;
      const int64_t last = RoundUp(stop, kKeyBlock);
      this->ClearSums();
      const bool ahead = in_place && num_rows <= kFewRows;
      for (int64_t key = first; key < last; key += kKeyBlock) {
        const KeyGroups keys_here = in_place ? KeysInPlace(key) : WidenKeys(key);
        if (ahead) {
          const bool more_keys = key + kKeyBlock < last;
          const KeyGroups next = more_keys ? KeysInPlace(key + kKeyBlock) : ValueLines(first);
          ForRuns<kRun>(num_rows, Scores<T, true>{*this, keys_here, next, start, key, scale});
        } else if (in_place) {
          ForRuns<kRun>(num_rows, Scores<T, false>{*this, keys_here, {}, start, key, scale});
        } else {
          ForRuns<kRun>(num_rows, Scores<float, false>{*this, keys_here, {}, start, key, scale});
        }
      }
      for (int64_t row = 0; row < num_rows; ++row) this->Softmax(row, start, first, last);
      for (int64_t key = first; key < last; key += kKeyBlock) {
        const KeyGroups values_here = in_place ? ValuesInPlace(key) : WidenValues(key);
        if (ahead) {
          const bool more_values = key + kKeyBlock < last;
          const KeyGroups next = more_values ? ValueLines(key + kKeyBlock)
                                 : more      ? KeysInPlace(last)
                                             : ValueLines(key);
          ForRuns<kRun>(num_rows, Weigh<T, true>{*this, values_here, next, start, key});
        } else if (in_place) {
          ForRuns<kRun>(num_rows, Weigh<T, false>{*this, values_here, {}, start, key});
        } else {
          ForRuns<kRun>(num_rows, Weigh<float, false>{*this, values_here, {}, start, key});
        }
      }
    });
  }
};

template <typename Isa>
void FoldSpansKernel(const AttentionBlock& block) {
  AttendRows<Isa> rows(block);
  rows.SetPartial(block.partials);
  for (int64_t i = 1; i < block.last_span - block.first_span; ++i) {
    rows.Fold(block.partials + i * rows.PartialFloats());
  }
  rows.Finish();
}

}  // namespace nibble::cpu
