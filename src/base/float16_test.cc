#include "base/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nibble {
namespace {

// The value of a 16-bit pattern, from the definition: sign, exponent, fraction.
double Meaning(uint32_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t exponent = (bits >> fraction_bits) & ((1u << exponent_bits) - 1);
  const double fraction = std::ldexp(bits & ((1u << fraction_bits) - 1), -fraction_bits);
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  if (exponent == (1u << exponent_bits) - 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1 + fraction, static_cast<int>(exponent) - bias);
}

template <typename Half>
struct Layout;
template <>
struct Layout<BFloat16> {
  static constexpr int kExponentBits = 8, kFractionBits = 7;
};
template <>
struct Layout<Float16> {
  static constexpr int kExponentBits = 5, kFractionBits = 10;
};

template <typename Half>
class Float16Test : public ::testing::Test {};
using Halves = ::testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(Float16Test, Halves);

TYPED_TEST(Float16Test, WidensEveryPatternToItsMeaning) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = TypeParam::FromBits(static_cast<uint16_t>(bits));
    const auto value = static_cast<float>(half);
    const double meaning =
        Meaning(bits, Layout<TypeParam>::kExponentBits, Layout<TypeParam>::kFractionBits);
    if (std::isnan(meaning)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
    } else {
      EXPECT_EQ(value, meaning) << bits;
      EXPECT_EQ(std::signbit(value), (bits >> 15) != 0) << bits;
    }
  }
}

TYPED_TEST(Float16Test, RoundTripsEveryPattern) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = TypeParam::FromBits(static_cast<uint16_t>(bits));
    const auto value = static_cast<float>(half);
    const TypeParam again(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(again))) << bits;
      EXPECT_EQ(again.bits() >> 15, bits >> 15) << "the sign of a NaN stays";
    } else {
      EXPECT_EQ(again.bits(), bits);
    }
  }
}

// Between any two neighbours there is one place where rounding changes: halfway. Checking it, and
// the floats on both sides of it, checks the rounding of all floats.
TYPED_TEST(Float16Test, RoundsToNearestAndTiesToEvenBetweenAllNeighbours) {
  const uint32_t infinity = ((1u << Layout<TypeParam>::kExponentBits) - 1)
                            << Layout<TypeParam>::kFractionBits;
  for (const uint32_t sign : {0u, 0x8000u}) {
    for (uint32_t bits = 0; bits < infinity; ++bits) {
      const auto low = static_cast<uint16_t>(sign | bits);
      const auto high = static_cast<uint16_t>(sign | (bits + 1));
      const double a =
          Meaning(low, Layout<TypeParam>::kExponentBits, Layout<TypeParam>::kFractionBits);
      double b = Meaning(high, Layout<TypeParam>::kExponentBits, Layout<TypeParam>::kFractionBits);
      if (std::isinf(b)) {  // overflow is rounded as if the next power of two were representable
        const double before = Meaning(sign | (bits - 1), Layout<TypeParam>::kExponentBits,
                                      Layout<TypeParam>::kFractionBits);
        b = a + (a - before);
      }
      const auto middle = static_cast<float>((a + b) / 2);
      ASSERT_EQ(static_cast<double>(middle), (a + b) / 2);
      const float toward_low = std::nextafterf(middle, static_cast<float>(a));
      const float toward_high =
          std::nextafterf(middle, std::copysign(std::numeric_limits<float>::infinity(), middle));
      EXPECT_EQ(TypeParam(middle).bits(), bits % 2 == 0 ? low : high) << bits;
      EXPECT_EQ(TypeParam(toward_low).bits(), low) << bits;
      EXPECT_EQ(TypeParam(toward_high).bits(), high) << bits;
    }
  }
}

TYPED_TEST(Float16Test, SendsWhatIsTooLargeToInfinityAndTooSmallToZero) {
  const float huge = std::numeric_limits<float>::max();
  EXPECT_TRUE(std::isinf(static_cast<float>(TypeParam(huge))));
  EXPECT_LT(static_cast<float>(TypeParam(-huge)), 0);
  EXPECT_EQ(TypeParam(std::numeric_limits<float>::denorm_min()).bits(), 0);
  EXPECT_EQ(TypeParam(-std::numeric_limits<float>::denorm_min()).bits(), 0x8000);
}

static_assert(BFloat16(1.0f).bits() == 0x3f80);
static_assert(Float16(1.0f).bits() == 0x3c00);

}  // namespace
}  // namespace nibble
