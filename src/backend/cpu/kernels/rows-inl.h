#pragma once

#include "backend/cpu/kernels/simd.h"
#include "backend/cpu/kernels/table.h"

// Kernels over rows: norm, fixed point, rotation, SiLU, and the epilogues of a tile of sums.
namespace nibble::cpu {

// p * 2^n, where p is about 1 and |n| <= 151; 0 if n < least. NaN stays NaN.
template <typename Isa>
NIBBLE_INLINE typename Isa::F TimesPowerOfTwo(typename Isa::F p, typename Isa::I n, int32_t least) {
  if constexpr (Isa::kScales) {
    return Isa::TimesPowerOfTwo(p, n, least);
  } else {
    const auto power = [](typename Isa::I exponent) {
      return Isa::AsFloat(Isa::template ShiftLeft<23>(Isa::AddI(exponent, Isa::SetI(127))));
    };
    // Two factors, so that large results overflow to infinity.
    const auto floor_half = Isa::template ShiftRight<1>(n);
    const auto ceil_half = Isa::template ShiftRight<1>(Isa::AddI(n, Isa::SetI(1)));
    const auto result = Isa::Mul(Isa::Mul(p, power(floor_half)), power(ceil_half));
    // A factor of 1 or 0 and not a mask, so that NaN propagates.
    const auto counts =
        Isa::AddI(Isa::template ShiftRight<31>(Isa::AddI(n, Isa::SetI(-least))), Isa::SetI(1));
    return Isa::Mul(result, Isa::ToFloat(counts));
  }
}

// e^x within 1 ulp: x = n ln 2 + r, a Taylor polynomial for e^r (|r| <= 0.35: its error is far
// below rounding), and 2^n. Results below about 2^-86 are flushed to 0: they are negligible in a
// sum with ones, but as factors they would produce subnormal numbers, which some machines multiply
// a hundred times slower. NaN stays NaN.
template <typename Isa>
NIBBLE_INLINE typename Isa::F Exp(typename Isa::F x) {
  x = Isa::Min(Isa::Set(89.0f), Isa::Max(Isa::Set(-104.0f), x));
  const auto n = Isa::Round(Isa::Mul(x, Isa::Set(1.44269504f)));
  const auto whole = Isa::ToFloat(n);
  auto r = Isa::FnMa(whole, Isa::Set(0.693359375f), x);
  r = Isa::FnMa(whole, Isa::Set(-2.12194440e-4f), r);
  auto p = Isa::Set(1.0f / 5040.0f);
  p = Isa::Fma(p, r, Isa::Set(1.0f / 720.0f));
  p = Isa::Fma(p, r, Isa::Set(1.0f / 120.0f));
  p = Isa::Fma(p, r, Isa::Set(1.0f / 24.0f));
  p = Isa::Fma(p, r, Isa::Set(1.0f / 6.0f));
  p = Isa::Fma(p, r, Isa::Set(0.5f));
  p = Isa::Fma(p, r, Isa::Set(1.0f));
  p = Isa::Fma(p, r, Isa::Set(1.0f));
  return TimesPowerOfTwo<Isa>(p, n, -86);
}

template <typename Isa>
NIBBLE_INLINE typename Isa::F Silu(typename Isa::F x) {
  const auto one = Isa::Set(1.0f);
  return Isa::Div(x, Isa::Add(one, Exp<Isa>(Isa::Mul(x, Isa::Set(-1.0f)))));
}

template <typename Isa>
void RmsNorm(const float* x, const float* weight, float eps, int64_t cols, float* out) {
  typename Isa::F sums[4] = {Isa::Zero(), Isa::Zero(), Isa::Zero(), Isa::Zero()};
  int64_t i = 0;
  for (; i + 64 <= cols; i += 64) {
    NIBBLE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const auto v = Isa::Load(x + i + 16 * j);
      sums[j] = Isa::Fma(v, v, sums[j]);
    }
  }
  for (; i < cols; i += 16) {
    const auto v = Isa::LoadFirst(x + i, cols - i);
    sums[0] = Isa::Fma(v, v, sums[0]);
  }
  const float total = Isa::Sum(Isa::Add(Isa::Add(sums[0], sums[1]), Isa::Add(sums[2], sums[3])));
  const auto scale = Isa::Set(1.0f / __builtin_sqrtf(total / static_cast<float>(cols) + eps));
  for (i = 0; i + 16 <= cols; i += 16) {
    Isa::Store(out + i, Isa::Mul(Isa::Mul(Isa::Load(x + i), scale), Isa::Load(weight + i)));
  }
  if (i < cols) {
    const auto v = Isa::Mul(Isa::LoadFirst(x + i, cols - i), scale);
    Isa::StoreFirst(out + i, Isa::Mul(v, Isa::LoadFirst(weight + i, cols - i)), cols - i);
  }
}

template <typename Isa>
void FixRow(const float* x, const int32_t* columns, int64_t cols, const PackedFormat& format,
            int64_t row, const FixedPointRows& out) {
  const int64_t width = format.block_cols;
  if (width < 8 || width > kMaxPackedBlock) __builtin_unreachable();
  // The largest magnitude: 127, or with two planes that both stay within int8 127 * 256 + 127.
  const float limit = out.num_planes == 2 ? 32639.0f : 127.0f;
  const bool whole_vectors = width % 16 == 0;
  alignas(64) float gathered[kMaxPackedBlock];
  alignas(64) int8_t staged[2][kMaxPackedBlock];
  for (int64_t block = 0; block < format.num_blocks; ++block) {
    const int64_t first = block * width;
    const float* values = x + first;
    if (columns != nullptr || !whole_vectors || first + width > cols) {
      for (int64_t k = 0; k < kMaxPackedBlock; ++k) {
        const int64_t column = k >= width           ? -1
                               : columns != nullptr ? columns[first + k]
                               : first + k < cols   ? first + k
                                                    : -1;
        gathered[k] = column >= 0 ? x[column] : 0.0f;
      }
      values = gathered;
    }

    auto magnitude = Isa::ZeroI();
    for (int64_t k = 0; k < width; k += 16) {
      magnitude = Isa::MaxI(magnitude, Isa::Magnitude(Isa::Load(values + k)));
    }
    const int32_t bits = Isa::MaxLaneI(magnitude);
    const float largest = __builtin_bit_cast(float, bits);
    // A maximum too small to divide by counts as zero. Non-finite values have no fixed-point form:
    // a NaN scale propagates to every result of the row.
    float scale = 0.0f;
    float inverse = 0.0f;
    if (bits >= 0x7f800000) {
      scale = __builtin_nanf("");
    } else if (largest >= 1e-30f) {
      scale = largest / limit;
      inverse = limit / largest;
    }

    int8_t* const planes = out.planes + (block * out.stride + row) * out.num_planes * width;
    int8_t* const high = whole_vectors ? planes : staged[0];
    int8_t* const low = out.num_planes < 2 ? nullptr : whole_vectors ? planes + width : staged[1];
    auto sum = Isa::ZeroI();
    if (inverse == 0.0f) {
      __builtin_memset(high, 0, static_cast<size_t>(width));
      if (low != nullptr) __builtin_memset(low, 0, static_cast<size_t>(width));
    } else if (low == nullptr) {
      for (int64_t k = 0; k < width; k += 16) {
        const auto q = Isa::Round(Isa::Mul(Isa::Load(values + k), Isa::Set(inverse)));
        sum = Isa::AddI(sum, q);
        Isa::StoreBytes(high + k, q);
      }
    } else {
      for (int64_t k = 0; k < width; k += 16) {
        const auto q = Isa::Round(Isa::Mul(Isa::Load(values + k), Isa::Set(inverse)));
        const auto upper = Isa::template ShiftRight<8>(Isa::AddI(q, Isa::SetI(128)));
        const auto lower = Isa::AddI(q, Isa::MulI(upper, Isa::SetI(-256)));
        sum = Isa::AddI(sum, q);
        Isa::StoreBytes(high + k, upper);
        Isa::StoreBytes(low + k, lower);
      }
    }
    if (!whole_vectors) {
      __builtin_memcpy(planes, high, static_cast<size_t>(width));
      if (low != nullptr) __builtin_memcpy(planes + width, low, static_cast<size_t>(width));
    }
    out.scales[block * out.stride + row] = scale;
    out.sums[block * out.stride + row] = Isa::SumI(sum);
  }
}

// out = op(sums, out) over the `width` columns of a tile that exist.
template <typename Isa, typename Op>
NIBBLE_INLINE void WriteTile(const float* sums, int64_t num_rows, int64_t width, float* out,
                             int64_t stride, Op op) {
  for (int64_t i = 0; i < num_rows; ++i) {
    float* const to = out + i * stride;
    const float* const from = sums + i * kTileRows;
    int64_t r = 0;
    for (; r + 16 <= width; r += 16) {
      Isa::Store(to + r, op(Isa::Load(from + r), i * kTileRows + r, Isa::Load(to + r)));
    }
    if (r < width) {
      const auto old = Isa::LoadFirst(to + r, width - r);
      Isa::StoreFirst(to + r, op(Isa::Load(from + r), i * kTileRows + r, old), width - r);
    }
  }
}

template <typename Isa>
void StoreTile(const float* sums, int64_t num_rows, int64_t width, float* out, int64_t stride) {
  WriteTile<Isa>(sums, num_rows, width, out, stride,
                 [](typename Isa::F sum, int64_t, typename Isa::F) NIBBLE_LAMBDA { return sum; });
}

template <typename Isa>
void AddTile(const float* sums, int64_t num_rows, int64_t width, float* out, int64_t stride) {
  WriteTile<Isa>(sums, num_rows, width, out, stride,
                 [](typename Isa::F sum, int64_t, typename Isa::F old)
                     NIBBLE_LAMBDA { return Isa::Add(old, sum); });
}

template <typename Isa>
void SiluTile(const float* sums, const float* other, int64_t num_rows, int64_t width, float* out,
              int64_t stride) {
  WriteTile<Isa>(sums, num_rows, width, out, stride,
                 [other](typename Isa::F sum, int64_t index, typename Isa::F)
                     NIBBLE_LAMBDA { return Isa::Mul(Silu<Isa>(sum), Isa::Load(other + index)); });
}

template <typename Isa>
void Accumulate(const float* x, float factor, int64_t count, float* out) {
  const auto f = Isa::Set(factor);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    Isa::Store(out + i, Isa::Fma(f, Isa::Load(x + i), Isa::Load(out + i)));
  }
  if (i < count) {
    const auto sum =
        Isa::Fma(f, Isa::LoadFirst(x + i, count - i), Isa::LoadFirst(out + i, count - i));
    Isa::StoreFirst(out + i, sum, count - i);
  }
}

template <typename Isa>
void Rotate(float* heads, int64_t num_heads, int64_t head_dim, int64_t half, const float* cosines,
            const float* sines) {
  for (int64_t head = 0; head < num_heads; ++head) {
    float* const first = heads + head * head_dim;
    float* const second = first + half;
    for (int64_t i = 0; i < half; i += 16) {
      const int64_t count = half - i;
      const auto a = Isa::LoadFirst(first + i, count);
      const auto b = Isa::LoadFirst(second + i, count);
      const auto cosine = Isa::LoadFirst(cosines + i, count);
      const auto sine = Isa::LoadFirst(sines + i, count);
      Isa::StoreFirst(first + i, Isa::FnMa(b, sine, Isa::Mul(a, cosine)), count);
      Isa::StoreFirst(second + i, Isa::Fma(a, sine, Isa::Mul(b, cosine)), count);
    }
  }
}

}  // namespace nibble::cpu
