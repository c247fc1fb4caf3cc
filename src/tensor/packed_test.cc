#include "tensor/packed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;

TEST(PackCodes, PutsTheFirstCodeInTheLowestBits) {
  std::vector<int8_t> codes(16);
  std::iota(codes.begin(), codes.end(), int8_t{-8});
  const Tensor packed = PackCodes(codes, 1, 16, 4);
  EXPECT_EQ(packed.shape(), (Shape{1, 2}));
  EXPECT_THAT(packed.As<int32_t>(), ElementsAre(0x76543210, static_cast<int32_t>(0xfedcba98u)));
}

}  // namespace
}  // namespace nibble
