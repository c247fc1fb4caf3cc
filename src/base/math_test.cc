#include "base/math.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace nibble {
namespace {

TEST(Math, RoundsUp) {
  static_assert(CeilDiv(0, 4) == 0 && CeilDiv(1, 4) == 1 && CeilDiv(4, 4) == 1 &&
                CeilDiv(5, 4) == 2);
  static_assert(RoundUp(0, 4) == 0 && RoundUp(1, 4) == 4 && RoundUp(4, 4) == 4 &&
                RoundUp(5, 4) == 8);
  const int64_t large = (int64_t{1} << 40) + 1;  // the wider type decides
  EXPECT_EQ(CeilDiv(large, 2), (int64_t{1} << 39) + 1);
  EXPECT_EQ(RoundUp(large, 1 << 20), (int64_t{1} << 40) + (1 << 20));
}

}  // namespace
}  // namespace nibble
