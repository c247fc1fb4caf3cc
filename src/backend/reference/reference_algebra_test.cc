#include "backend/reference/reference_algebra.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "backend/host/host_data.h"

namespace nibble {
namespace {

std::vector<float> RandomMatrix(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<float> values(rows * cols);
  for (float& value : values) value = static_cast<float>(generator()) * 0x1p-31f - 1.0f;
  return values;
}

// H + I over rows of x, with a mark in the strict lower triangle, which must not be touched.
constexpr float kMark = -77.0f;
std::vector<float> MarkedIdentity(int64_t n) {
  std::vector<float> h(n * n, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) h[i * n + j] = i == j ? 1.0f : kMark;
  }
  return h;
}

TEST(ReferenceAlgebra, InverseCholeskyGivesTheFactorOfTheInverse) {
  ReferenceAlgebra algebra;
  for (const int64_t n : {1, 2, 7, 33}) {
    const auto x = RandomMatrix(n + 3, n, 5);
    std::vector<float> h = MarkedIdentity(n);
    algebra.GramUpdate(BorrowHost(x.data(), n + 3, n), nullptr, 0, n + 3, h.data());
    std::vector<float> u = h;
    ASSERT_EQ(algebra.InverseCholesky(u.data(), n), -1);

    // U H U^T = I, since H^-1 = U^T U; H is symmetric with its upper triangle stored.
    const auto full = [&](int64_t i, int64_t j) {
      return static_cast<double>(h[std::min(i, j) * n + std::max(i, j)]);
    };
    const auto upper = [&](int64_t i, int64_t j) {
      return j < i ? 0.0 : static_cast<double>(u[i * n + j]);
    };
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        if (j < i) {
          EXPECT_EQ(u[i * n + j], kMark);
          EXPECT_EQ(h[i * n + j], kMark);
        }
        double sum = 0;
        for (int64_t a = 0; a < n; ++a) {
          for (int64_t b = 0; b < n; ++b) sum += upper(i, a) * full(a, b) * upper(j, b);
        }
        EXPECT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-5) << n << ": " << i << ", " << j;
      }
    }
  }
}

TEST(ReferenceAlgebra, InverseCholeskyNamesARowWithoutPositivePivot) {
  ReferenceAlgebra algebra;
  std::vector<float> h = {1, 0, 0, 0, -1, 0, 0, 0, 1};
  EXPECT_EQ(algebra.InverseCholesky(h.data(), 3), 1);
  h = {1, 0, 0, 0, 1, 0, 0, 0, NAN};
  EXPECT_EQ(algebra.InverseCholesky(h.data(), 3), 2);
}

TEST(ReferenceAlgebra, TransposedMultiplyAddHonoursLeadingDimensions) {
  ReferenceAlgebra algebra;
  const std::vector<float> a = {1, 2, 9, 3, 4, 9};  // [2, 2] in rows of 3
  const std::vector<float> b = {5, 6, 7, 8};        // [2, 2]
  std::vector<float> c = {1, 1, 100, 1, 1, 100};    // [2, 2] in rows of 3
  algebra.TransposedMultiplyAdd(2.0f, a.data(), 3, b.data(), 2, c.data(), 3, 2, 2, 2);
  EXPECT_EQ(c, (std::vector<float>{53, 61, 100, 77, 89, 100}));
}

}  // namespace
}  // namespace nibble
