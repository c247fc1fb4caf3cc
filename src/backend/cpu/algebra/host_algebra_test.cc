#include "backend/cpu/algebra/host_algebra.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "backend/host/host_data.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr float kUntouched = 12345.0f;  // in the strict lower triangle, which must stay as it is

std::vector<float> RandomMatrix(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(rows * cols);
  for (float& value : values) value = normal(generator);
  return values;
}

// X^T X / rows + damping on the diagonal, in the upper triangle.
std::vector<float> RandomHessian(int64_t n, uint32_t seed) {
  const int64_t rows = std::min<int64_t>(n + 3, 100);
  const std::vector<float> x = RandomMatrix(rows, n, seed);
  std::vector<float> h(n * n, kUntouched);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double sum = i == j ? 0.1 * static_cast<double>(rows) : 0.0;
      for (int64_t row = 0; row < rows; ++row) {
        sum += static_cast<double>(x[row * n + i]) * static_cast<double>(x[row * n + j]);
      }
      h[i * n + j] = static_cast<float>(sum / static_cast<double>(rows));
    }
  }
  return h;
}

class HostAlgebraTest : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  std::unique_ptr<GptqAlgebra> algebra_ = MakeHostAlgebra(pool_);
};

TEST_F(HostAlgebraTest, GramUpdateAddsTheRowsToTheUpperTriangleOnly) {
  struct Case {
    int64_t rows, cols;
    bool scattered;
  };
  for (const auto& [rows, cols, scattered] :
       {Case{1, 1, false}, Case{3, 129, true}, Case{517, 256, false}, Case{700, 401, true},
        Case{5, 1030, false}, Case{2050, 1030, true}}) {
    const std::vector<float> x = RandomMatrix(rows, cols, 7);
    std::vector<int32_t> order;
    for (int64_t i = 0; i < rows; ++i) order.push_back(static_cast<int32_t>(i * 7919 % rows));
    std::vector<float> h(cols * cols, kUntouched);
    algebra_->GramUpdate(BorrowHost(x.data(), rows, cols), scattered ? order.data() : nullptr, 0,
                         rows, h.data());
    const int64_t step = cols > 1000 ? 97 : 1;  // plain loops are slow
    for (int64_t i = 0; i < cols; i += step) {
      for (int64_t j = 0; j < cols; ++j) {
        const float found = h[i * cols + j];
        if (j < i) {
          ASSERT_EQ(found, kUntouched);
          continue;
        }
        double expected = kUntouched;
        for (int64_t row = 0; row < rows; ++row) {
          const int64_t from = scattered ? order[row] : row;
          expected +=
              static_cast<double>(x[from * cols + i]) * static_cast<double>(x[from * cols + j]);
        }
        ASSERT_NEAR(found, expected, 2e-6 * kUntouched)
            << rows << "x" << cols << " " << i << "," << j;
      }
    }
  }
}

TEST_F(HostAlgebraTest, SaysWhatDecidesItsBits) {
  const std::string signature = algebra_->signature();
  EXPECT_THAT(signature, MatchesRegex("(amx|avx512|avx2|portable): OpenBLAS [0-9.]+ .+"));
  ThreadPool one(1);
  EXPECT_EQ(MakeHostAlgebra(one)->signature(), signature);
  // Tiles are left alone where others were asked for.
  EXPECT_THAT(MakeHostAlgebra(one, "avx512")->signature(), Not(HasSubstr("tiles")));
}

// H^-1 = U^T U if and only if U H U^T = I; checked on vectors: U H U^T x = x.
TEST_F(HostAlgebraTest, InverseCholeskyGivesTheFactorOfTheInverse) {
  for (const int64_t n : {1, 2, 127, 128, 130, 400, 512, 513, 530, 1100}) {
    const std::vector<float> h = RandomHessian(n, 11);
    std::vector<float> u = h;
    ASSERT_EQ(algebra_->InverseCholesky(u.data(), n), -1);
    const auto at = [n](int64_t i, int64_t j) { return static_cast<size_t>(i * n + j); };
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) ASSERT_EQ(u[at(i, j)], kUntouched);
      ASSERT_GT(u[at(i, i)], 0);
    }
    for (uint32_t seed = 0; seed < 5; ++seed) {
      const std::vector<float> x = RandomMatrix(n, 1, seed);
      std::vector<double> ux(x.size()), hux(x.size());
      for (int64_t i = 0; i < n; ++i) {  // U^T x
        for (int64_t k = 0; k <= i; ++k) {
          ux[at(0, i)] += static_cast<double>(u[at(k, i)]) * static_cast<double>(x[at(0, k)]);
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t k = 0; k < n; ++k) {
          hux[at(0, i)] +=
              static_cast<double>(h[at(std::min(i, k), std::max(i, k))]) * ux[at(0, k)];
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        double found = 0;
        for (int64_t k = i; k < n; ++k) found += static_cast<double>(u[at(i, k)]) * hux[at(0, k)];
        ASSERT_NEAR(found, x[at(0, i)], 1e-3) << "n=" << n << " at " << i;
      }
    }
  }
}

TEST_F(HostAlgebraTest, InverseCholeskyNamesThePivotThatIsNotPositive) {
  for (const int64_t n : {150, 700}) {
    for (const float bad : {-1.0f, 0.0f, std::nanf("")}) {
      for (const int64_t at : {int64_t{0}, int64_t{3}, n / 2, n - 1}) {
        std::vector<float> h(n * n, 0.0f);
        for (int64_t i = 0; i < n; ++i) h[i * n + i] = i == at ? bad : 1.0f;
        EXPECT_EQ(algebra_->InverseCholesky(h.data(), n), at) << bad;
      }
    }
  }
}

TEST_F(HostAlgebraTest, TransposedMultiplyAddMatchesPlainLoops) {
  const int64_t m = 515, n = 7, k = 33, lda = 600, ldb = 9, ldc = 11;
  const std::vector<float> a = RandomMatrix(k, lda, 1), b = RandomMatrix(k, ldb, 2);
  const std::vector<float> before = RandomMatrix(m, ldc, 3);
  std::vector<float> c = before;
  algebra_->TransposedMultiplyAdd(-0.5f, a.data(), lda, b.data(), ldb, c.data(), ldc, m, n, k);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < ldc; ++j) {
      double expected = before[i * ldc + j];
      for (int64_t l = 0; l < k && j < n; ++l) {
        expected -= 0.5 * static_cast<double>(a[l * lda + i]) * static_cast<double>(b[l * ldb + j]);
      }
      ASSERT_NEAR(c[i * ldc + j], expected, 1e-4);
    }
  }
}

TEST_F(HostAlgebraTest, ResultsDoNotDependOnThreadsOrNesting) {
  for (const int64_t n : {300, 1050}) {
    const int64_t rows = n + 400;
    const std::vector<float> x = RandomMatrix(rows, n, 5);
    const auto run = [&](GptqAlgebra& algebra) {
      std::vector<float> h(n * n, 0.0f);
      algebra.GramUpdate(BorrowHost(x.data(), rows, n), nullptr, 0, rows, h.data());
      EXPECT_EQ(algebra.InverseCholesky(h.data(), n), -1);
      return h;
    };
    ThreadPool one(1), three(3);
    const std::vector<float> expected = run(*algebra_);
    EXPECT_EQ(run(*MakeHostAlgebra(one)), expected);
    EXPECT_EQ(run(*MakeHostAlgebra(three)), expected);
    std::vector<std::vector<float>> nested(3);
    algebra_->threads().ParallelFor(3, [&](int64_t index, int) { nested[index] = run(*algebra_); });
    for (const auto& h : nested) EXPECT_EQ(h, expected);
  }
}

}  // namespace
}  // namespace nibble
