#include "backend/weight.h"

#include <gtest/gtest.h>

#include "tests/support/testing_layer.h"

namespace nibble {
namespace {

using testing::HostWeight;
using testing::RandomWeight;

std::vector<float> Values(const WeightView& view) {
  if (const auto* packed = std::get_if<PackedView>(&view)) return Dequantize(*packed);
  return ToFloat(std::get<TensorView>(view));
}

TEST(WeightView, RowsAreThoseOfTheWhole) {
  const int64_t rows = 72, cols = 96;
  for (const int bits : {0, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const bool act_order : {false, true}) {
        const HostWeight host = RandomWeight(
            {.bits = bits, .group_size = 32, .symmetric = symmetric, .act_order = act_order}, rows,
            cols, 1);
        const std::vector<float> whole = Values(host.view());
        for (const auto& [first, count] : {std::pair{0, 72}, {8, 24}, {64, 8}, {16, 0}, {24, 45}}) {
          const WeightView some = RowsOf(host.view(), first, count);
          EXPECT_EQ(ShapeOf(some), (MatrixShape{count, cols}));
          if (count == 0) continue;
          EXPECT_EQ(Values(some), std::vector<float>(whole.begin() + first * cols,
                                                     whole.begin() + (first + count) * cols))
              << bits << symmetric << act_order << " rows from " << first;
        }
      }
    }
  }
}

TEST(WeightView, AVectorHasOneRow) {
  const Tensor vector = FromFloat(std::vector<float>(5, 1.0f), DType::kF32, Shape{5});
  EXPECT_EQ(ShapeOf(vector.view()), (MatrixShape{1, 5}));
  EXPECT_EQ(ShapeOf(RowsOf(vector.view(), 2, 3)), (MatrixShape{1, 3}));
}

}  // namespace
}  // namespace nibble
