#include "backend/cpu/algebra/small_matrices.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "backend/host/host_data.h"
#include "backend/reference/reference_algebra.h"
#include "hwy/targets.h"

namespace nibble::cpu {
namespace {

constexpr float kOutside = -7;  // in the strict lower triangle, which must not be accessed

std::vector<float> Normal(int64_t count) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

TEST(SmallGram, SumsTheUpperTriangleOfAnyShapeInAnyNumberOfParts) {
  ReferenceAlgebra reference;
  for (const int64_t cols : {1, 4, 15, 16, 31, 33, 70, 128, 200}) {
    for (const int64_t count : {0, 1, 3, 128, 300}) {
      for (const bool scattered : {false, true}) {
        const int64_t num_rows = 310;
        const std::vector<float> x = Normal(num_rows * cols);
        std::vector<int32_t> rows;
        for (int32_t i = 0; i < count; ++i) rows.push_back(i * 37 % 310);
        const GramInputs inputs{x.data(), scattered ? rows.data() : nullptr, count, cols};
        const auto at = [&](int64_t i, int64_t j) { return static_cast<size_t>(i * cols + j); };
        std::vector<float> start(at(cols, 0), kOutside);
        for (int64_t i = 0; i < cols; ++i) {
          for (int64_t j = i; j < cols; ++j) start[at(i, j)] = static_cast<float>(i - j);
        }
        std::vector<float> expected = start, found = start;
        reference.GramUpdate(BorrowHost(x.data(), count, cols), inputs.rows, 0, count,
                             expected.data());
        AddSmallGram(inputs, 0, 1, found.data());
        for (int64_t i = 0; i < cols; ++i) {
          for (int64_t j = 0; j < i; ++j) ASSERT_EQ(found[at(i, j)], kOutside);
          for (int64_t j = i; j < cols; ++j) {
            ASSERT_NEAR(found[at(i, j)], expected[at(i, j)], 3e-4) << cols << " " << i << " " << j;
          }
        }
        for (const int parts : {2, 3, 5}) {
          std::vector<float> shared = start;
          for (int part = parts - 1; part >= 0; --part) {
            AddSmallGram(inputs, part, parts, shared.data());
          }
          ASSERT_EQ(shared, found) << cols << " columns in " << parts << " parts";
        }
      }
    }
  }
}

TEST(SmallInverseCholesky, EqualsTheReferenceAtAnySizeInsideALargerMatrix) {
  ReferenceAlgebra reference;
  for (const int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 48, 65, 100, 144, 259}) {
    const int64_t stride = n + 5;
    const std::vector<float> x = Normal((n + 10) * n);
    std::vector<float> expected(n * n, 0.0f);
    reference.GramUpdate(BorrowHost(x.data(), n + 10, n), nullptr, 0, n + 10, expected.data());
    for (int64_t i = 0; i < n; ++i) {
      expected[i * n + i] += 0.1f * static_cast<float>(n);
    }
    std::vector<float> found(n * stride, kOutside);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i; j < n; ++j) {
        found[i * stride + j] = expected[i * n + j];
      }
    }
    ASSERT_EQ(reference.InverseCholesky(expected.data(), n), -1);
    ASSERT_EQ(SmallInverseCholesky(found.data(), n, stride), -1);
    const float scale = expected[n * n - 1];
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < stride; ++j) {
        const float value = found[i * stride + j];
        if (j < i || j >= n) {
          ASSERT_EQ(value, kOutside);
        } else {
          ASSERT_NEAR(value, expected[i * n + j], 1e-4f * scale) << n << " " << i << " " << j;
        }
      }
    }
  }
}

// What was quantized on one machine can be continued on another, if its vectors are wider or not.
TEST(SmallMatrices, AllVectorUnitsThatFuseGiveTheSameBits) {
  const int64_t count = 300;
  std::vector<std::vector<float>> results;
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    if (!SmallMatricesFuse()) continue;
    std::vector<float>& all = results.emplace_back();
    for (const int64_t n : {5, 16, 40, 129, 200, 300, 515}) {
      const std::vector<float> x = Normal(count * n);
      std::vector<float> h(n * n, 0.0f);
      for (int64_t i = 0; i < n; ++i) h[i * n + i] = 30;
      AddSmallGram({.x = x.data(), .rows = nullptr, .count = count, .cols = n}, 0, 1, h.data());
      all.insert(all.end(), h.begin(), h.end());
      ASSERT_EQ(SmallInverseCholesky(h.data(), n, n), -1);
      all.insert(all.end(), h.begin(), h.end());
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  if (results.size() < 2) GTEST_SKIP() << "one vector unit that fuses, or none";
  for (const std::vector<float>& found : results) EXPECT_TRUE(found == results.front());
}

TEST(SmallInverseCholesky, NamesThePivotThatIsNotPositiveOrNotFinite) {
  const int64_t n = 45;
  for (const float bad : {-1.0f, 0.0f, std::nanf(""), INFINITY}) {
    for (int64_t at = 0; at < n; ++at) {
      std::vector<float> h(n * n, 0.0f);
      for (int64_t i = 0; i < n; ++i) h[i * n + i] = i == at ? bad : 1.0f;
      EXPECT_EQ(SmallInverseCholesky(h.data(), n, n), at) << bad;
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
