#pragma once

#include <cstdint>
#include <functional>

namespace nibble {

// Dense algebra of GPTQ on host matrices, row-major float. Deterministic: work is cut into tiles of
// fixed size, so that results do not depend on the number of threads, nor on whether a call comes
// from inside a ParallelFor body (where it runs on that one thread).
class Linalg {
 public:
  virtual ~Linalg() = default;

  // H += X^T X, upper triangle only (the strict lower triangle of H is neither read nor written).
  //   x     [.., cols], row i at x + i * cols
  //   rows  the `count` rows that take part, in this order, or null for 0, 1, 2, ...
  //   h     [cols, cols]
  virtual void GramUpdate(const float* x, const int32_t* rows, int64_t count, int64_t cols,
                          float* h) = 0;

  // Replaces the upper triangle of H by the upper Cholesky factor U of its inverse, H^-1 = U^T U;
  // the strict lower triangle is neither read nor written. Returns -1 on success, else the index of
  // a row whose pivot was not positive (or not finite); the upper triangle is then unspecified.
  virtual int64_t InverseCholesky(float* h, int64_t n) = 0;

  // C[m, n] += alpha * A^T B, with A [k, m] and B [k, n]; leading dimensions given.
  virtual void TransposedMultiplyAdd(float alpha, const float* a, int64_t lda, const float* b,
                                     int64_t ldb, float* c, int64_t ldc, int64_t m, int64_t n,
                                     int64_t k) = 0;

  // Runs body(index, thread) for each index in [0, count) on the backend's threads; `thread` is in
  // [0, num_threads()) and may pick a scratch buffer. Inside a body it is a plain loop on that
  // thread, with thread 0.
  virtual void ParallelFor(int64_t count,
                           const std::function<void(int64_t index, int thread)>& body) = 0;

  virtual int num_threads() const = 0;
};

}  // namespace nibble
