#include "backend/cuda/w4/dequantize.h"

#include <gtest/gtest.h>

#include "backend/cuda/emulator/warp.h"

namespace nibble::cuda {
namespace {

// All 256 pairs of codes in register j, other codes around them all zeros, all ones or mixed.
template <typename Check>
void ForAllPairs(const Check& check) {
  for (const uint32_t background : {0u, 0xffffffffu, 0xa53cc3f0u}) {
    for (int j = 0; j < 4; ++j) {
      for (uint32_t pair = 0; pair < 256; pair += 1) {
        const uint32_t mask = kLowNibbles << (4 * j);
        const uint32_t codes = ((pair & 15) | (pair >> 4) << 16) << (4 * j);
        check((background & ~mask) | codes, j, static_cast<float>(pair & 15) - 8.0f,
              static_cast<float>(pair >> 4) - 8.0f);
      }
    }
  }
}

TEST(Dequantize, Bf16IsExactForEveryCodeInEveryPlace) {
  ForAllPairs([](uint32_t word, int j, float low, float high) {
    const uint32_t pair = DequantizeBf16<Emulated>(Lanes<uint32_t>(word), j)[7];
    EXPECT_EQ(static_cast<float>(BFloat16::FromBits(static_cast<uint16_t>(pair))), low);
    EXPECT_EQ(static_cast<float>(BFloat16::FromBits(static_cast<uint16_t>(pair >> 16))), high);
  });
}

TEST(Dequantize, F16IsExactForEveryCodeInEveryPlace) {
  ForAllPairs([](uint32_t word, int j, float low, float high) {
    const uint32_t pair = DequantizeF16<Emulated>(Lanes<uint32_t>(word), j)[31];
    EXPECT_EQ(static_cast<float>(Float16::FromBits(static_cast<uint16_t>(pair))), low);
    EXPECT_EQ(static_cast<float>(Float16::FromBits(static_cast<uint16_t>(pair >> 16))), high);
  });
}

TEST(Dequantize, ConstantsAreWhatTheirNamesSay) {
  for (const int half : {0, 1}) {
    const auto bf16 = [&](uint32_t pair) {
      return static_cast<float>(BFloat16::FromBits(static_cast<uint16_t>(pair >> (16 * half))));
    };
    const auto f16 = [&](uint32_t pair) {
      return static_cast<float>(Float16::FromBits(static_cast<uint16_t>(pair >> (16 * half))));
    };
    EXPECT_EQ(bf16(kBf16Pair128), 128.0f);
    EXPECT_EQ(bf16(kBf16Pair136), 136.0f);
    EXPECT_EQ(f16(kF16Pair1024), 1024.0f);
    EXPECT_EQ(f16(kF16Pair1032), 1032.0f);
    EXPECT_EQ(f16(kF16PairSixteenth), 0.0625f);
    EXPECT_EQ(f16(kF16PairMinus72), -72.0f);
  }
}

}  // namespace
}  // namespace nibble::cuda
