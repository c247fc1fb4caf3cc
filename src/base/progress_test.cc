#include "base/progress.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(ProgressLine, SaysRateAndTimeLeft) {
  EXPECT_EQ(ProgressLine("calibrate", "rows", 300, 1200, 30.0),
            "calibrate: 300/1200 rows (25 %), 10 rows/s, 90.0 s left");
  EXPECT_EQ(ProgressLine("layer", "layers", 1, 56, 20.0),
            "layer: 1/56 layers (1 %), 0.05 layers/s, 18 min 20 s left");
  EXPECT_EQ(ProgressLine("score", "tokens", 5000, 5000, 2.5),
            "score: 5000/5000 tokens (100 %), 2000 tokens/s, took 2.5 s");
}

TEST(ProgressLine, WritesBytesInUnitsThatFit) {
  EXPECT_EQ(ProgressLine("hash", "B", 1'500'000'000, 73'000'000'000, 2.0),
            "hash: 1.5 GB/73.0 GB (2 %), 750.0 MB/s, 95.3 s left");
}

TEST(ProgressLine, PromisesNothingBeforeTheFirstUnit) {
  EXPECT_EQ(ProgressLine("load", "layers", 0, 4, 3.0), "load: 0/4 layers (0 %)");
  EXPECT_EQ(ProgressLine("load", "layers", 0, 0, 0.0), "load: 0/0 layers");
}

TEST(Progress, IsSilentForShortWork) {
  ::testing::internal::CaptureStderr();
  {
    Progress progress("short", "steps", 10);
    for (int i = 0; i < 10; ++i) progress.Add(1);
    progress.SetLabel("other");
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(FormatBytes, UsesDecimalUnits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1000), "1.0 kB");
  EXPECT_EQ(FormatBytes(999'949), "999.9 kB");
  EXPECT_EQ(FormatBytes(999'950), "1.0 MB");
  EXPECT_EQ(FormatBytes(73'096'335'872), "73.1 GB");
  EXPECT_EQ(FormatBytes(INT64_MAX), "9.2 EB");
}

TEST(FormatSeconds, ReadsLikeAPersonWouldSay) {
  EXPECT_EQ(FormatSeconds(0.84), "0.8 s");
  EXPECT_EQ(FormatSeconds(99.94), "99.9 s");
  EXPECT_EQ(FormatSeconds(99.96), "1 min 40 s");
  EXPECT_EQ(FormatSeconds(723), "12 min 03 s");
  EXPECT_EQ(FormatSeconds(3599.6), "1 h 00 min");
  EXPECT_EQ(FormatSeconds(36000), "10 h 00 min");
  EXPECT_EQ(FormatSeconds(-1), "0.0 s");
}

}  // namespace
}  // namespace nibble
