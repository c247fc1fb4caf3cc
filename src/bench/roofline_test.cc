#include "bench/roofline.h"

#include <gtest/gtest.h>

#include <thread>

namespace nibble::cpu {
namespace {

TEST(Roofline, MeasuresSomethingOfEachKind) {
  const Roofline roofline = MeasureRoofline({.threads = 2, .instruction_set = {}}, 3, 8 << 20);
  EXPECT_GT(roofline.read_bytes_per_second, 1e7);
  EXPECT_GT(roofline.float_flops_per_second, 1e7);
  EXPECT_GT(roofline.byte_dot_ops_per_second, 1e7);
  EXPECT_DOUBLE_EQ(roofline.packed_ops_per_second(16), roofline.byte_dot_ops_per_second / 2);
  EXPECT_DOUBLE_EQ(roofline.packed_ops_per_second(8), roofline.byte_dot_ops_per_second);
}

TEST(Roofline, TakesTheMedianAfterOneCallToWarmUp) {
  int calls = 0;
  const double seconds = MedianSeconds(5, [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(calls == 0 ? 200 : 2));
    ++calls;
  });
  EXPECT_EQ(calls, 6);
  EXPECT_GE(seconds, 0.002);
  EXPECT_LT(seconds, 0.2);
}

}  // namespace
}  // namespace nibble::cpu
