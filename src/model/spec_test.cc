#include "model/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(InverseFrequencies, FallGeometrically) {
  EXPECT_THAT(InverseFrequencies(10000, 8),
              ::testing::Pointwise(::testing::FloatEq(), {1.0f, 0.1f, 0.01f, 0.001f}));
}

}  // namespace
}  // namespace nibble
