#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/float16.h"

// A warp emulated on the host: 32 lanes in lockstep, with the instructions that kernels use, as the
// PTX manual describes them. The inner loops of kernels are templates over an `Isa`: here they run
// in tests, and with Ptx (warp_ptx.cuh) on the device, where a value is a register.
namespace nibble::cuda {

inline constexpr int kWarpLanes = 32;

// A register in each lane; arithmetic is lane by lane.
template <typename T>
struct Lanes {
  std::array<T, kWarpLanes> lane{};

  Lanes() = default;
  Lanes(T value) { lane.fill(value); }  // NOLINT(google-explicit-constructor): a uniform register

  template <typename Function>
  static Lanes Of(const Function& function) {
    Lanes result;
    for (int i = 0; i < kWarpLanes; ++i) result[i] = function(i);
    return result;
  }
  T& operator[](int i) { return lane[static_cast<size_t>(i)]; }
  const T& operator[](int i) const { return lane[static_cast<size_t>(i)]; }

  friend Lanes operator+(const Lanes& a, const Lanes& b) {
    return Of([&](int i) { return a[i] + b[i]; });
  }
  friend Lanes operator*(const Lanes& a, const Lanes& b) {
    return Of([&](int i) { return a[i] * b[i]; });
  }
  friend Lanes operator/(const Lanes& a, const Lanes& b) {
    return Of([&](int i) { return a[i] / b[i]; });
  }
  friend Lanes operator%(const Lanes& a, const Lanes& b) {
    return Of([&](int i) { return a[i] % b[i]; });
  }
  friend Lanes operator>>(const Lanes& a, int shift) {
    return Of([&](int i) { return a[i] >> shift; });
  }
};

struct Emulated {
  using U32 = Lanes<uint32_t>;
  using F32 = Lanes<float>;

  static U32 Lane() {
    return U32::Of([](int i) { return static_cast<uint32_t>(i); });
  }

  static U32 AndOr(const U32& a, uint32_t mask, uint32_t bits) {
    return U32::Of([&](int i) { return (a[i] & mask) | bits; });
  }

  // Both halves of a register as 16-bit floats: one rounding an operation.
  static U32 SubtractBf16(const U32& a, uint32_t b) {
    return Halves<BFloat16>(a, [&](float x, int half) { return x - Half<BFloat16>(b, half); });
  }
  static U32 SubtractF16(const U32& a, uint32_t b) {
    return Halves<Float16>(a, [&](float x, int half) { return x - Half<Float16>(b, half); });
  }
  static U32 MultiplyAddF16(const U32& a, uint32_t b, uint32_t c) {
    return Halves<Float16>(a, [&](float x, int half) {
      return std::fma(x, Half<Float16>(b, half), Half<Float16>(c, half));
    });
  }

  static F32 MultiplyAdd(const F32& a, const F32& b, const F32& c) {
    return F32::Of([&](int i) { return std::fma(a[i], b[i], c[i]); });
  }
  static F32 Exp(const F32& a) {
    return F32::Of([&](int i) { return std::exp(a[i]); });
  }

  // Sixteen bytes a lane from shared memory, aligned.
  static void LoadVector(const std::byte* base, const U32& offset, U32 (&words)[4]) {
    for (int i = 0; i < kWarpLanes; ++i) {
      for (int w = 0; w < 4; ++w) words[w][i] = Load<uint32_t>(base + offset[i] + 4 * w);
    }
  }

  static F32 LoadBf16(const std::byte* base, const U32& offset) {
    return F32::Of([&](int i) {
      return static_cast<float>(BFloat16::FromBits(Load<uint16_t>(base + offset[i])));
    });
  }

  // ldmatrix.x4: four matrices of 8 rows of 8 halves. Lane i has the address of row i % 8 of matrix
  // i / 8; it gets elements 2(i % 4) and the next of row i / 4 of every matrix.
  static void LoadMatrices(const std::byte* base, const U32& offset, U32 (&matrices)[4]) {
    for (int m = 0; m < 4; ++m) {
      for (int i = 0; i < kWarpLanes; ++i) {
        const std::byte* row = base + offset[m * 8 + i / 4];
        matrices[m][i] = Load<uint32_t>(row + i % 4 * 4);
      }
    }
  }

  // mma.m16n8k16 of BF16 with float sums: d[16, 8] += a[16, 16] b[16, 8]. Lane 4g + t holds
  //   a   rows g, g + 8, g, g + 8 in turn; inputs 2t, 2t + 1, and 8 more in registers 2 and 3
  //   b   column g; inputs 2t, 2t + 1, and 8 more in b1
  //   d   row g, columns 2t and 2t + 1; then row g + 8
  // How an accelerator rounds the sum of 16 products is not documented; here it is rounded once.
  static void MatrixMultiplyAdd(F32 (&d)[4], const U32 (&a)[4], const U32& b0, const U32& b1) {
    float rows[16][16];
    float columns[8][16];
    for (int i = 0; i < kWarpLanes; ++i) {
      const int g = i / 4;
      const int t = i % 4;
      for (int half = 0; half < 2; ++half) {
        for (int j = 0; j < 4; ++j) {
          rows[g + 8 * (j % 2)][2 * t + half + 8 * (j / 2)] = Half<BFloat16>(a[j][i], half);
        }
        columns[g][2 * t + half] = Half<BFloat16>(b0[i], half);
        columns[g][2 * t + half + 8] = Half<BFloat16>(b1[i], half);
      }
    }
    for (int i = 0; i < kWarpLanes; ++i) {
      for (int e = 0; e < 4; ++e) {
        const int row = i / 4 + 8 * (e / 2);
        const int column = i % 4 * 2 + e % 2;
        double sum = d[e][i];
        for (int k = 0; k < 16; ++k) {
          sum += static_cast<double>(rows[row][k]) * static_cast<double>(columns[column][k]);
        }
        d[e][i] = static_cast<float>(sum);
      }
    }
  }

 private:
  template <typename T>
  static T Load(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }

  template <typename Format>
  static float Half(uint32_t pair, int half) {
    return static_cast<float>(Format::FromBits(static_cast<uint16_t>(pair >> (16 * half))));
  }

  template <typename Format, typename Function>
  static U32 Halves(const U32& a, const Function& function) {
    return U32::Of([&](int i) {
      const uint32_t low = Format(function(Half<Format>(a[i], 0), 0)).bits();
      const uint32_t high = Format(function(Half<Format>(a[i], 1), 1)).bits();
      return low | high << 16;
    });
  }
};

}  // namespace nibble::cuda
