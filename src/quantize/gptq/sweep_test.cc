#include "quantize/gptq/sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "hwy/targets.h"
#include "tensor/tensor.h"

namespace nibble {
namespace {

struct Problem {
  int64_t columns, rows, groups;
  Tensor weights, scales, zero_points, errors, losses;
  std::vector<float> factor;
  std::vector<int32_t> group_of;
  std::vector<int8_t> codes;

  SweepBlock Block(bool with_factor) {
    SweepBlock block;
    block.columns = columns;
    block.rows = rows;
    block.weights = weights.As<float>().data();
    block.factor = with_factor ? factor.data() : nullptr;
    block.factor_stride = columns + 3;
    block.groups = group_of.data();
    block.scales = scales.As<float>().data();
    block.zero_points = zero_points.As<float>().data();
    block.min_code = -8;
    block.max_code = 7;
    block.codes = codes.data();
    block.errors = errors.As<float>().data();
    block.losses = losses.As<float>().data();
    return block;
  }
};

Problem RandomProblem(int64_t columns, int64_t rows, bool asymmetric) {
  std::mt19937 generator(static_cast<uint32_t>(columns));
  std::normal_distribution<float> normal;
  const int64_t groups = 3;
  const auto floats = [](int64_t r, int64_t c) { return Tensor(DType::kF32, Shape{r, c}); };
  Problem p{columns,
            rows,
            groups,
            floats(columns, rows),
            floats(groups, rows),
            floats(groups, rows),
            floats(columns, rows),
            floats(1, rows),
            {},
            {},
            {}};
  for (float& value : p.weights.As<float>()) value = normal(generator);
  for (float& value : p.scales.As<float>()) value = 0.3f + 0.05f * std::abs(normal(generator));
  for (float& value : p.zero_points.As<float>()) {
    value = asymmetric ? std::nearbyint(3 * normal(generator)) : 0.0f;
  }
  p.factor.resize(columns * (columns + 3));
  for (float& value : p.factor) value = 0.1f * normal(generator);
  for (int64_t i = 0; i < columns; ++i) {
    p.factor[i * (columns + 3) + i] = 1.0f + 0.01f * static_cast<float>(i);
    p.group_of.push_back(static_cast<int32_t>(i * 7 % groups));
  }
  p.codes.resize(columns * rows);
  return p;
}

// The slow, obvious twin, in double: errors differ by rounding, codes only where a weight is near
// the midpoint of two codes.
void SlowSweep(const SweepBlock& b, std::vector<int>& codes, std::vector<double>& losses) {
  std::vector<double> w(b.weights, b.weights + b.columns * b.rows);
  losses.assign(b.rows, 0.0);
  for (int64_t i = 0; i < b.columns; ++i) {
    for (int64_t r = 0; r < b.rows; ++r) {
      const double scale = static_cast<double>(b.scales[b.groups[i] * b.rows + r]);
      const double zero = static_cast<double>(b.zero_points[b.groups[i] * b.rows + r]);
      double& weight = w[i * b.rows + r];
      const double code = std::nearbyint(std::clamp(weight / scale + zero, -8.0, 7.0));
      codes[i * b.rows + r] = static_cast<int>(code);
      if (b.factor == nullptr) continue;
      const float* const u = b.factor + i * b.factor_stride;
      const double error = (weight - (code - zero) * scale) / static_cast<double>(u[i]);
      losses[r] += error * error;
      for (int64_t j = i + 1; j < b.columns; ++j) {
        w[j * b.rows + r] -= error * static_cast<double>(u[j]);
      }
    }
  }
}

// What was quantized on one machine can be continued on another, if its vectors are wider or not.
TEST(Sweep, AllVectorUnitsThatFuseGiveTheSameBits) {
  constexpr int64_t kFusing = HWY_AVX2 | HWY_AVX3 | HWY_AVX3_DL | HWY_NEON;
  std::vector<Problem> results;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if ((target & kFusing) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    Sweep(results.emplace_back(RandomProblem(128, 2 * kSweepRowMultiple, true)).Block(true));
  }
  hwy::SetSupportedTargetsForTest(0);
  if (results.size() < 2) GTEST_SKIP() << "one vector unit that fuses, or none";
  for (Problem& result : results) {
    EXPECT_EQ(result.codes, results.front().codes);
    EXPECT_TRUE(std::ranges::equal(result.errors.As<float>(), results[0].errors.As<float>()));
    EXPECT_TRUE(std::ranges::equal(result.losses.As<float>(), results[0].losses.As<float>()));
    EXPECT_TRUE(std::ranges::equal(result.weights.As<float>(), results[0].weights.As<float>()));
  }
}

TEST(Sweep, MatchesPlainLoops) {
  for (const int64_t columns : {1, 5, 16, 17, 40, 128}) {
    for (const bool asymmetric : {false, true}) {
      for (const bool with_factor : {false, true}) {
        Problem p = RandomProblem(columns, 2 * kSweepRowMultiple, asymmetric);
        const SweepBlock block = p.Block(with_factor);
        std::vector<int> codes(p.codes.size());
        std::vector<double> losses;
        SlowSweep(block, codes, losses);
        Sweep(block);
        int64_t different = 0;
        for (size_t i = 0; i < codes.size(); ++i) different += codes[i] != p.codes[i];
        if (!with_factor) {
          EXPECT_EQ(different, 0);
          continue;
        }
        // A row in which one code was rounded differently diverges from there.
        EXPECT_LE(different, 40) << columns;
        int64_t close = 0;
        for (int64_t r = 0; r < block.rows; ++r) {
          const double loss = static_cast<double>(block.losses[r]);
          close += std::abs(loss - losses[r]) <= 1e-3 * loss;
        }
        EXPECT_GE(close, block.rows - 3) << columns;
      }
    }
  }
}

TEST(Sweep, RowsDoNotInfluenceEachOther) {
  Problem all = RandomProblem(48, 2 * kSweepRowMultiple, false);
  Problem one = RandomProblem(48, 2 * kSweepRowMultiple, false);
  for (int64_t i = 0; i < 48; ++i) {
    for (int64_t r = 1; r < one.rows; ++r) {
      one.weights.As<float>()[i * one.rows + r] = 0;
    }
  }
  Sweep(all.Block(true));
  Sweep(one.Block(true));
  for (int64_t i = 0; i < 48; ++i) {
    EXPECT_EQ(all.codes[i * all.rows], one.codes[i * one.rows]);
  }
}

}  // namespace
}  // namespace nibble
