#include "base/system.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibble {
namespace {

TEST(System, CountsResidentMemoryAtItsPeak) {
  const int64_t before = PeakResidentBytes();
  EXPECT_GT(before, 1'000'000);
  {
    std::vector<char> touched(200'000'000, 'x');
    EXPECT_EQ(touched[123'456'789], 'x');
  }
  EXPECT_GE(PeakResidentBytes(), 190'000'000);
}

TEST(System, SeesAvailableMemory) {
  EXPECT_GT(AvailableMemoryBytes(), 10'000'000);
  EXPECT_LT(AvailableMemoryBytes(), int64_t{1} << 50);
}

TEST(System, CountsCpuTime) {
  const double before = CpuSeconds();
  volatile double sink = 0;
  while (CpuSeconds() < before + 0.02) {
    for (int i = 0; i < 10'000; ++i) sink = sink + 1;
  }
  EXPECT_GT(CpuSeconds(), before);
}

TEST(System, NamesTheCpu) { EXPECT_FALSE(CpuModelName().empty()); }

}  // namespace
}  // namespace nibble
