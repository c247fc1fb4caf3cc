#include "backend/cpu/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble::cpu {
namespace {

TEST(RopeTable, HoldsCosinesAndSinesOfTheAngleInFloat) {
  RopeTable table;
  const std::vector<int32_t> positions = {0, 1, 4095, 65535};
  const std::vector<float> frequencies = {1.0f, 0.31622776f, 0.001f};
  table.Prepare(positions, {.inverse_frequencies = frequencies});
  EXPECT_EQ(table.half(), 3);
  for (size_t t = 0; t < positions.size(); ++t) {
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const float angle = static_cast<float>(positions[t]) * frequencies[i];
      const auto token = static_cast<int64_t>(t);
      EXPECT_NEAR(table.cosines(token)[i], std::cos(static_cast<double>(angle)), 1e-7);
      EXPECT_NEAR(table.sines(token)[i], std::sin(static_cast<double>(angle)), 1e-7);
    }
  }
}

TEST(RopeTable, FollowsOtherFrequenciesAndTheNextStep) {
  RopeTable table;
  table.Prepare(std::vector<int32_t>{1}, {.inverse_frequencies = {0.5f}});
  table.Prepare(std::vector<int32_t>{1}, {.inverse_frequencies = {0.25f}});
  EXPECT_FLOAT_EQ(table.cosines(0)[0], std::cos(0.25f));
  table.Prepare(std::vector<int32_t>{1}, {.inverse_frequencies = {0.25f}, .factor = 2});
  EXPECT_FLOAT_EQ(table.cosines(0)[0], 2 * std::cos(0.25f));
  EXPECT_FLOAT_EQ(table.sines(0)[0], 2 * std::sin(0.25f));
  table.Reset();
  table.Prepare(std::vector<int32_t>{2}, {.inverse_frequencies = {0.25f}});
  EXPECT_FLOAT_EQ(table.cosines(0)[0], std::cos(0.5f));
}

}  // namespace
}  // namespace nibble::cpu
