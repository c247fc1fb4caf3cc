#include "quantize/gptq/grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/float16.h"

namespace nibble {
namespace {

uint16_t Bf16Bits(float value) { return BFloat16(value).bits(); }

Grid Observe(const Recipe& recipe, std::vector<float> weights, DType dtype = DType::kBF16) {
  const std::vector<float> importance(weights.size(), 1.0f);
  return ObserveGroup(recipe, dtype, weights, importance);
}

TEST(Observer, MinMaxScalesAreTheReferencesInEveryBit) {
  const Recipe recipe;
  struct Case {
    float absmax;
    uint16_t scale;
  };
  for (const auto& [absmax, scale] : {Case{1.0f, 0x3e09}, Case{0.0625f, 0x3c09}, Case{0.1f, 0x3c5b},
                                      Case{0.332f, 0x3d35}, Case{7.5f, 0x3f80}}) {
    const float weight = static_cast<float>(BFloat16(absmax));
    for (const float sign : {1.0f, -1.0f}) {
      const Grid grid = Observe(recipe, {0.01f, sign * weight, -0.02f});
      EXPECT_EQ(Bf16Bits(grid.scale), scale) << absmax;
      EXPECT_EQ(grid.zero_point, 0.0f);
      EXPECT_EQ(QuantizeOne(recipe, {1.0f, 0.0f}, sign * 7.5f), sign > 0 ? 7 : -8);
    }
  }
}

TEST(Observer, AGroupOfZerosHasTheEpsilonOfItsType) {
  const Recipe recipe;
  EXPECT_EQ(Observe(recipe, {0, 0, 0}).scale, 0x1p-7f);
  EXPECT_EQ(Observe(recipe, {0, 0, 0}, DType::kF16).scale, 0x1p-10f);
}

TEST(Observer, AsymmetricGridsSpanTheRangeAndContainZero) {
  Recipe recipe;
  recipe.symmetric = false;
  const Grid grid = Observe(recipe, {-1.0f, 0.5f, 2.0f});
  EXPECT_EQ(grid.scale, static_cast<float>(BFloat16(3.0f / 15)));
  EXPECT_EQ(grid.zero_point, std::nearbyint(-8 + 1 / grid.scale));
  EXPECT_EQ(QuantizeOne(recipe, grid, -1.0f), -8.0f);
  EXPECT_EQ(QuantizeOne(recipe, grid, 2.0f), 7.0f);
  // All weights positive: zero is the lower end all the same.
  const Grid positive = Observe(recipe, {1.0f, 3.0f});
  EXPECT_EQ(positive.zero_point, -8.0f);
  EXPECT_EQ(positive.scale, static_cast<float>(BFloat16(3.0f / 15)));
}

TEST(Observer, EightBitGridsHave255Steps) {
  Recipe recipe;
  recipe.bits = 8;
  const Grid grid = Observe(recipe, {-2.0f, 1.0f});
  EXPECT_EQ(grid.scale, static_cast<float>(BFloat16(2.0f / 127.5f)));
  EXPECT_EQ(QuantizeOne(recipe, grid, -2.1f), -128.0f);
  EXPECT_EQ(QuantizeOne(recipe, grid, 2.1f), 127.0f);
}

TEST(Observer, RoundsHalfToEvenAfterClamping) {
  const Recipe recipe;
  const Grid grid{1.0f, 0.0f};
  EXPECT_EQ(QuantizeOne(recipe, grid, 0.5f), 0.0f);
  EXPECT_EQ(QuantizeOne(recipe, grid, 1.5f), 2.0f);
  EXPECT_EQ(QuantizeOne(recipe, grid, -2.5f), -2.0f);
  EXPECT_EQ(QuantizeOne(recipe, grid, 100.0f), 7.0f);
  EXPECT_EQ(QuantizeOne(recipe, grid, -100.0f), -8.0f);
}

double WeightedError(const Recipe& recipe, const Grid& grid, const std::vector<float>& weights,
                     const std::vector<float>& importance, double norm) {
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const float decoded = (QuantizeOne(recipe, grid, weights[i]) - grid.zero_point) * grid.scale;
    sum += static_cast<double>(importance[i]) *
           std::pow(std::abs(static_cast<double>(weights[i] - decoded)), norm);
  }
  return sum;
}

TEST(Observer, TheSearchNeverLosesToMinMaxAndWinsOnOutliers) {
  std::mt19937 generator(3);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (const bool symmetric : {true, false}) {
    std::vector<float> weights(128), importance(128);
    for (float& weight : weights) weight = normal(generator);
    for (float& value : importance) value = std::abs(normal(generator));
    weights[17] = 0.11f;
    importance[17] = 1e-4f;
    Recipe recipe;
    recipe.symmetric = symmetric;
    const Grid plain = ObserveGroup(recipe, DType::kBF16, weights, importance);
    const std::vector<float> ones(128, 1.0f);
    recipe.observer = Observer::kMse;
    const Grid mse = ObserveGroup(recipe, DType::kBF16, weights, {});
    EXPECT_LE(WeightedError(recipe, mse, weights, ones, 2.4),
              WeightedError(recipe, plain, weights, ones, 2.4));
    recipe.observer = Observer::kImatrixMse;
    const Grid weighted = ObserveGroup(recipe, DType::kBF16, weights, importance);
    EXPECT_LT(WeightedError(recipe, weighted, weights, importance, 3),
              WeightedError(recipe, plain, weights, importance, 3));
    EXPECT_EQ(static_cast<float>(BFloat16(weighted.scale)), weighted.scale);
  }
}

}  // namespace
}  // namespace nibble
