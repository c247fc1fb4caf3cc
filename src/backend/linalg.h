#pragma once

#include <cstdint>
#include <functional>

namespace nibble {

// Dense algebra of GPTQ on host matrices, row-major float. Deterministic: results do not depend on the
// number of threads.
class Linalg {
 public:
  virtual ~Linalg() = default;

  // H += X^T X, upper triangle only (the strict lower triangle of H is neither read nor written).
  //   x  [rows, cols], row i at x + i * cols
  //   h  [cols, cols]
  virtual void GramUpdate(const float* x, int64_t rows, int64_t cols, float* h) = 0;

  // Replaces H (upper triangle read) by the upper Cholesky factor U of its inverse: H^-1 = U^T U, the strict lower
  // triangle zeroed. Returns the index of the first non-positive pivot, or -1 on success; on failure
  // the content of h is unspecified.
  virtual int64_t InverseCholesky(float* h, int64_t n) = 0;

  // C[m, n] += alpha * A[m, k] B[k, n], leading dimensions given.
  virtual void MultiplyAdd(float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
                           float* c, int64_t ldc, int64_t m, int64_t n, int64_t k) = 0;

  // Runs body(index) for each index in [0, count) on the backend's threads.
  virtual void ParallelFor(int64_t count, const std::function<void(int64_t index)>& body) = 0;

  // The threads MultiplyAdd and the others use; inside a ParallelFor body they run on one thread.
  virtual int num_threads() const = 0;
};

}  // namespace nibble
