#include "base/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::ElementsAre;

TEST(NumpyPcg64, DrawsTheRecordedWordsOfSeed42) {
  NumpyPcg64 random(42);
  EXPECT_EQ(random.Next64(), 0xc621fbcd16d92688u);
  EXPECT_EQ(random.Next64(), 0x705a5661a791ffc1u);
  EXPECT_EQ(random.Next64(), 0xdbcd12c26eda1624u);
  EXPECT_EQ(random.Next64(), 0xb286b60e1600888du);
}

}  // namespace
}  // namespace nibble
