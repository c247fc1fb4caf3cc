#include "quantize/phase_clock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::SizeIs;

TEST(PhaseClock, AddsUpPhasesByName) {
  PhaseClock clock;
  for (int i = 0; i < 3; ++i) {
    const auto phase = clock.Measure("solve", 2);
    const auto start = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(5)) {
    }
  }
  {
    const auto phase = clock.Measure("write");
  }
  const std::vector<PhaseReport> reports = clock.Reports(4);
  ASSERT_THAT(reports, SizeIs(2));
  EXPECT_EQ(reports[0].name, "solve");
  EXPECT_EQ(reports[0].gflop, 6);
  EXPECT_EQ(reports[0].bound_seconds, 1.5);
  EXPECT_GE(reports[0].seconds, 0.015);
  EXPECT_GT(reports[0].cpu_seconds, 0);
  EXPECT_EQ(reports[1].bound_seconds, 0);
}

}  // namespace
}  // namespace nibble
