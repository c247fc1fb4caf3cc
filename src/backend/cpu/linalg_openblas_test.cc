#include "backend/cpu/linalg_openblas.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace nibble {
namespace {

constexpr float kUntouched = 12345.0f;  // what tests leave in the strict lower triangle

std::vector<float> RandomMatrix(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (float& value : values) value = normal(generator);
  return values;
}

// X^T X / rows + damping on the diagonal, in the upper triangle.
std::vector<float> RandomHessian(int64_t n, uint32_t seed) {
  const int64_t rows = n + 3;
  const std::vector<float> x = RandomMatrix(rows, n, seed);
  std::vector<float> h(static_cast<size_t>(n * n), kUntouched);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double sum = i == j ? 0.1 * static_cast<double>(rows) : 0.0;
      for (int64_t row = 0; row < rows; ++row) {
        sum += static_cast<double>(x[static_cast<size_t>(row * n + i)]) *
               static_cast<double>(x[static_cast<size_t>(row * n + j)]);
      }
      h[static_cast<size_t>(i * n + j)] = static_cast<float>(sum / static_cast<double>(rows));
    }
  }
  return h;
}

class OpenBlasLinalgTest : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  std::unique_ptr<Linalg> linalg_ = MakeOpenBlasLinalg(pool_);
};

TEST_F(OpenBlasLinalgTest, GramUpdateAddsToTheUpperTriangleOnly) {
  struct Case {
    int64_t rows, cols;
  };
  for (const auto& [rows, cols] : {Case{1, 1}, Case{3, 129}, Case{517, 256}, Case{700, 401}}) {
    const std::vector<float> x = RandomMatrix(rows, cols, 7);
    std::vector<float> h(static_cast<size_t>(cols * cols), kUntouched);
    linalg_->GramUpdate(x.data(), rows, cols, h.data());
    for (int64_t i = 0; i < cols; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        const float found = h[static_cast<size_t>(i * cols + j)];
        if (j < i) {
          ASSERT_EQ(found, kUntouched);
          continue;
        }
        double expected = kUntouched;
        for (int64_t row = 0; row < rows; ++row) {
          expected += static_cast<double>(x[static_cast<size_t>(row * cols + i)]) *
                      static_cast<double>(x[static_cast<size_t>(row * cols + j)]);
        }
        ASSERT_NEAR(found, expected, 2e-6 * kUntouched)
            << rows << "x" << cols << " " << i << "," << j;
      }
    }
  }
}

TEST_F(OpenBlasLinalgTest, InverseCholeskyGivesTheFactorOfTheInverse) {
  for (const int64_t n : {1, 2, 127, 128, 130, 400, 530}) {
    const std::vector<float> h = RandomHessian(n, 11);
    std::vector<float> u = h;
    ASSERT_EQ(linalg_->InverseCholesky(u.data(), n), -1);
    // H^-1 = U^T U exactly when U H U^T = I.
    std::vector<double> uh(static_cast<size_t>(n * n), 0.0);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = i; k < n; ++k) {
        for (int64_t j = 0; j < n; ++j) {
          uh[static_cast<size_t>(i * n + j)] +=
              static_cast<double>(u[static_cast<size_t>(i * n + k)]) *
              static_cast<double>(h[static_cast<size_t>(std::min(k, j) * n + std::max(k, j))]);
        }
      }
      for (int64_t j = 0; j < i; ++j) ASSERT_EQ(u[static_cast<size_t>(i * n + j)], kUntouched);
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t k = j; k < n; ++k) {
          sum += uh[static_cast<size_t>(i * n + k)] *
                 static_cast<double>(u[static_cast<size_t>(j * n + k)]);
        }
        ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-4) << "n=" << n << " at " << i << "," << j;
      }
    }
  }
}

TEST_F(OpenBlasLinalgTest, InverseCholeskyNamesThePivotThatIsNotPositive) {
  const int64_t n = 150;
  for (const float bad : {-1.0f, 0.0f, std::nanf("")}) {
    for (const int64_t at : {0, 3, 149}) {
      std::vector<float> h(static_cast<size_t>(n * n), 0.0f);
      for (int64_t i = 0; i < n; ++i) h[static_cast<size_t>(i * n + i)] = i == at ? bad : 1.0f;
      EXPECT_EQ(linalg_->InverseCholesky(h.data(), n), at) << bad;
    }
  }
}

TEST_F(OpenBlasLinalgTest, TransposedMultiplyAddMatchesPlainLoops) {
  const int64_t m = 515, n = 7, k = 33, lda = 600, ldb = 9, ldc = 11;
  const std::vector<float> a = RandomMatrix(k, lda, 1), b = RandomMatrix(k, ldb, 2);
  const std::vector<float> before = RandomMatrix(m, ldc, 3);
  std::vector<float> c = before;
  linalg_->TransposedMultiplyAdd(-0.5f, a.data(), lda, b.data(), ldb, c.data(), ldc, m, n, k);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < ldc; ++j) {
      double expected = before[static_cast<size_t>(i * ldc + j)];
      for (int64_t l = 0; l < k && j < n; ++l) {
        expected -= 0.5 * static_cast<double>(a[static_cast<size_t>(l * lda + i)]) *
                    static_cast<double>(b[static_cast<size_t>(l * ldb + j)]);
      }
      ASSERT_NEAR(c[static_cast<size_t>(i * ldc + j)], expected, 1e-4);
    }
  }
}

TEST_F(OpenBlasLinalgTest, ResultsDoNotDependOnThreadsOrNesting) {
  const int64_t n = 300, rows = 900;
  const std::vector<float> x = RandomMatrix(rows, n, 5);
  const auto run = [&](Linalg& linalg) {
    std::vector<float> h(static_cast<size_t>(n * n), 0.0f);
    linalg.GramUpdate(x.data(), rows, n, h.data());
    EXPECT_EQ(linalg.InverseCholesky(h.data(), n), -1);
    return h;
  };
  ThreadPool one(1), three(3);
  const std::vector<float> expected = run(*linalg_);
  EXPECT_EQ(run(*MakeOpenBlasLinalg(one)), expected);
  EXPECT_EQ(run(*MakeOpenBlasLinalg(three)), expected);
  std::vector<std::vector<float>> nested(4);
  linalg_->ParallelFor(
      4, [&](int64_t index, int) { nested[static_cast<size_t>(index)] = run(*linalg_); });
  for (const auto& h : nested) EXPECT_EQ(h, expected);
}

}  // namespace
}  // namespace nibble
