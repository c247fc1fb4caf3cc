#include "quantize/gptq/grid.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/float16.h"

namespace nibble {
namespace {

// Rounds to the stored type. A scale that rounds to zero becomes the type's epsilon, as in
// compressed-tensors; any positive scale decodes a group of zeros.
float StoredScale(float scale, DType dtype) {
  if (dtype == DType::kF16) {
    const float stored = static_cast<float>(Float16(scale));
    return stored > 0 ? stored : 0x1p-10f;
  }
  NIBBLE_CHECK(dtype == DType::kBF16);
  const float stored = static_cast<float>(BFloat16(scale));
  return stored > 0 ? stored : 0x1p-7f;
}

// low <= 0 <= high.
Grid GridOfRange(const Recipe& recipe, DType dtype, float low, float high) {
  const float steps = static_cast<float>(recipe.max_code() - recipe.min_code());  // 15 or 255
  Grid grid;
  if (recipe.symmetric) {
    grid.scale = StoredScale(std::max(-low, high) / (steps / 2), dtype);
  } else {
    grid.scale = StoredScale((high - low) / steps, dtype);
    const float min_code = static_cast<float>(recipe.min_code());
    const float max_code = static_cast<float>(recipe.max_code());
    grid.zero_point = std::nearbyint(std::clamp(min_code - low / grid.scale, min_code, max_code));
  }
  return grid;
}

struct Search {
  int steps;     // ranges tried
  float shrink;  // relative decrease of each
  float norm;
};

// The minimum and maximum of the weights and zero. In lanes, so that compilers vectorize it.
std::pair<float, float> RangeOf(std::span<const float> weights) {
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> lows{}, highs{};
  const auto take = [&](size_t lane, float weight) {
    lows[lane] = weight < lows[lane] ? weight : lows[lane];
    highs[lane] = weight > highs[lane] ? weight : highs[lane];
  };
  size_t i = 0;
  for (; i + kLanes <= weights.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) take(lane, weights[i + lane]);
  }
  for (; i < weights.size(); ++i) take(0, weights[i]);
  return {*std::min_element(lows.begin(), lows.end()),
          *std::max_element(highs.begin(), highs.end())};
}

}  // namespace

float QuantizeOne(const Recipe& recipe, const Grid& grid, float weight) {
  return std::nearbyint(std::clamp(weight / grid.scale + grid.zero_point,
                                   static_cast<float>(recipe.min_code()),
                                   static_cast<float>(recipe.max_code())));
}

Grid ObserveGroup(const Recipe& recipe, DType scale_dtype, std::span<const float> weights,
                  std::span<const float> importance) {
  const auto [low, high] = RangeOf(weights);
  Grid best = GridOfRange(recipe, scale_dtype, low, high);
  if (recipe.observer == Observer::kMinMax) return best;

  const bool weighted = recipe.observer == Observer::kImatrixMse;
  NIBBLE_CHECK(!weighted || importance.size() == weights.size());
  const Search search = weighted ? Search{20, 0.05f, 3.0f} : Search{20, 0.01f, 2.4f};
  float best_error = 0;
  for (int step = 0; step < search.steps; ++step) {
    const float keep = 1 - static_cast<float>(step) * search.shrink;
    const Grid grid = GridOfRange(recipe, scale_dtype, low * keep, high * keep);
    float error = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      const float decoded = (QuantizeOne(recipe, grid, weights[i]) - grid.zero_point) * grid.scale;
      const float power = std::pow(std::abs(weights[i] - decoded), search.norm);
      error += weighted ? importance[i] * power : power;
    }
    if (step == 0 || error < best_error) {
      best_error = error;
      best = grid;
    }
  }
  return best;
}

}  // namespace nibble
