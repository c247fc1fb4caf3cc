#include "tensor/shape.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibble {
namespace {

TEST(Shape, CountsElements) {
  EXPECT_EQ(Shape().num_elements(), 1);
  EXPECT_EQ(Shape({7}).num_elements(), 7);
  EXPECT_EQ(Shape({6144, 16384}).num_elements(), 100'663'296);
  EXPECT_EQ(Shape({3, 0, 5}).num_elements(), 0);
}

TEST(Shape, ComparesRankAndDimensions) {
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_NE((Shape{2, 3}), (Shape{3, 2}));
  EXPECT_NE((Shape{2}), (Shape{2, 0}));
  EXPECT_NE(Shape(), (Shape{0}));
  const std::vector<int64_t> dims = {1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_EQ(Shape(dims).rank(), 8);
  EXPECT_EQ(Shape(dims)[7], 8);
}

TEST(Shape, PrintsAsPythonDoes) {
  EXPECT_EQ(Shape().ToString(), "[]");
  EXPECT_EQ((Shape{6144, 16384}).ToString(), "[6144, 16384]");
}

TEST(ShapeDeathTest, RefusesNineDimensions) {
  const std::vector<int64_t> dims(9, 1);
  EXPECT_DEATH(Shape{std::span<const int64_t>(dims)}, "check failed");
}

}  // namespace
}  // namespace nibble
