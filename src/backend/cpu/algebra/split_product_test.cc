#include "backend/cpu/algebra/split_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace nibble::cpu {
namespace {

constexpr float kOld = 3;

std::vector<float> Normal(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

double Element(const TileOperand& operand, int64_t line, int64_t depth) {
  const int64_t row = operand.depth_major ? depth : line;
  const int64_t col = operand.depth_major ? line : depth;
  if (operand.upper && row > col + operand.upper_from) return 0;
  return static_cast<double>(operand.data[row * operand.stride + col]);
}

TEST(TileProduct, EqualsPlainSumsInAnyShapeAndLayout) {
  if (!HasTileProducts()) GTEST_SKIP() << "this machine has no matrix tiles";
  struct Case {
    int64_t m, n, depth;
  };
  for (const auto& [m, n, depth] :
       {Case{1, 1, 1}, Case{17, 33, 45}, Case{40, 40, 300}, Case{300, 530, 70}}) {
    for (int variant = 0; variant < 32; ++variant) {
      const bool a_depth_major = (variant & 1) != 0, b_depth_major = (variant & 2) != 0;
      const bool a_upper = (variant & 4) != 0, b_upper = (variant & 8) != 0;
      const bool set = (variant & 16) != 0;
      const bool upper_only = m == n && a_depth_major;
      const int64_t lda = (a_depth_major ? m : depth) + 3, ldb = (b_depth_major ? n : depth) + 2;
      const int64_t ldc = n + 1;
      std::vector<float> a = Normal((a_depth_major ? depth : m) * lda, 1);
      std::vector<float> b = Normal((b_depth_major ? depth : n) * ldb, 2);
      const TileOperand left{a.data(), lda, a_depth_major, a_upper, 5};
      const TileOperand right{b.data(), ldb, b_depth_major, b_upper, -3};
      const int64_t rows_of_a = a_depth_major ? depth : m;
      if (a_upper && rows_of_a > 6) a[lda * (rows_of_a - 1)] = NAN;
      std::vector<float> c(m * ldc, kOld);
      TileProduct(left, right, m, n, depth, -0.5f, {c.data(), ldc, set, upper_only});
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < ldc; ++j) {
          double sum = kOld, size = 1;
          if (j < n && !(upper_only && j < i)) {
            if (set) sum = 0;
            for (int64_t k = 0; k < depth; ++k) {
              const double product = 0.5 * Element(left, i, k) * Element(right, j, k);
              sum -= product;
              size += std::abs(product);
            }
          }
          ASSERT_NEAR(c[i * ldc + j], sum, 5e-7 * size)
              << m << "x" << n << "x" << depth << " variant " << variant << " at " << i << "," << j;
        }
      }
    }
  }
}

// The error is at most that of a plain chain of float multiply-adds.
TEST(TileProduct, RoundsNoMoreThanAChainOfMultiplyAdds) {
  if (!HasTileProducts()) GTEST_SKIP() << "this machine has no matrix tiles";
  const int64_t n = 16, depth = 4096;
  const std::vector<float> a = Normal(n * depth, 3), b = Normal(n * depth, 4);
  std::vector<float> c(n * n);
  TileProduct({.data = a.data(), .stride = depth}, {.data = b.data(), .stride = depth}, n, n, depth,
              1.0f, {.data = c.data(), .stride = n, .set = true});
  double error = 0, chain_error = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      float chain = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const float x = a[i * depth + k];
        const float y = b[j * depth + k];
        sum += static_cast<double>(x) * static_cast<double>(y);
        chain = std::fma(x, y, chain);
      }
      error += std::pow(static_cast<double>(c[i * n + j]) - sum, 2);
      chain_error += std::pow(static_cast<double>(chain) - sum, 2);
    }
  }
  EXPECT_LT(error, chain_error);
}

TEST(TileProduct, ShowsWhatIsNotFinite) {
  if (!HasTileProducts()) GTEST_SKIP() << "this machine has no matrix tiles";
  for (const float bad : {NAN, INFINITY, 1e30f}) {
    const float x = bad;
    float c = 0;
    TileProduct({.data = &x, .stride = 1}, {.data = &x, .stride = 1}, 1, 1, 1, 1.0f,
                {.data = &c, .stride = 1});
    EXPECT_FALSE(std::isfinite(c)) << bad;
  }
}

}  // namespace
}  // namespace nibble::cpu
