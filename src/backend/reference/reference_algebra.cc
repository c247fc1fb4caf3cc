#include "backend/reference/reference_algebra.h"

#include <cmath>
#include <vector>

#include "backend/host/host_data.h"

namespace nibble {

void ReferenceAlgebra::GramUpdate(const Activation& x, const int32_t* rows, int64_t first,
                                  int64_t count, float* h) {
  const int64_t cols = x.cols;
  for (int64_t i = 0; i < cols; ++i) {
    for (int64_t j = i; j < cols; ++j) {
      double sum = 0;
      for (int64_t r = 0; r < count; ++r) {
        const float* const row = HostRow(x, rows == nullptr ? first + r : rows[r]);
        sum += static_cast<double>(row[i]) * static_cast<double>(row[j]);
      }
      float& element = h[i * cols + j];
      element = static_cast<float>(static_cast<double>(element) + sum);
    }
  }
}

// With J the reversal of indices, factor J H J = M M^T, M lower. Then H^-1 = (J M^-1 J)^T (J M^-1
// J), and J M^-1 J is upper triangular: it is U. No inverse of H is formed.
int64_t ReferenceAlgebra::InverseCholesky(float* h, int64_t n) {
  const auto at = [n](int64_t row, int64_t col) { return static_cast<size_t>(row * n + col); };
  std::vector<double> m(n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      // Element (i, j) of J H J is H(n-1-i, n-1-j); j <= i puts it in the upper triangle.
      double sum = static_cast<double>(h[at(n - 1 - i, n - 1 - j)]);
      for (int64_t k = 0; k < j; ++k) sum -= m[at(i, k)] * m[at(j, k)];
      if (i == j) {
        if (!(sum > 0) || !std::isfinite(sum)) return n - 1 - i;
        m[at(i, i)] = std::sqrt(sum);
      } else {
        m[at(i, j)] = sum / m[at(j, j)];
      }
    }
  }

  std::vector<double> inverse(n * n, 0.0);  // of m, column by column
  for (int64_t j = 0; j < n; ++j) {
    inverse[at(j, j)] = 1.0 / m[at(j, j)];
    for (int64_t i = j + 1; i < n; ++i) {
      double sum = 0;
      for (int64_t k = j; k < i; ++k) sum -= m[at(i, k)] * inverse[at(k, j)];
      inverse[at(i, j)] = sum / m[at(i, i)];
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      h[at(i, j)] = static_cast<float>(inverse[at(n - 1 - i, n - 1 - j)]);
    }
  }
  return -1;
}

int64_t ReferenceAlgebra::FactorScratchBytes(int64_t n) const {
  return 2 * n * n * static_cast<int64_t>(sizeof(double));  // the factor and its inverse
}

void ReferenceAlgebra::TransposedMultiplyAdd(float alpha, const float* a, int64_t lda,
                                             const float* b, int64_t ldb, float* c, int64_t ldc,
                                             int64_t m, int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += static_cast<double>(a[l * lda + i]) * static_cast<double>(b[l * ldb + j]);
      }
      float& element = c[i * ldc + j];
      element = static_cast<float>(static_cast<double>(element) + static_cast<double>(alpha) * sum);
    }
  }
}

}  // namespace nibble
