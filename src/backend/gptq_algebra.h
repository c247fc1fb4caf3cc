#pragma once

#include <cstdint>
#include <string>

#include "backend/activation.h"
#include "base/thread_pool.h"

namespace nibble {

// The dense algebra of GPTQ: Gram sums of activations, and factors of host matrices, row-major
// float. Deterministic: work is cut into tiles of fixed size, so that results do not depend on the
// number of threads, nor on whether a call comes from inside a ParallelFor body (where it runs on
// that one thread).
class GptqAlgebra {
 public:
  virtual ~GptqAlgebra() = default;

  // The threads that calls run on, for work around them.
  virtual ThreadPool& threads() = 0;

  // H += X^T X, upper triangle only (the strict lower triangle of H is neither read nor written).
  //   x     activations [.., n] of the backend this belongs to
  //   rows  the `count` rows of x that take part, in this order, or null for first, first + 1, …
  //   h     [n, n], host memory
  virtual void GramUpdate(const Activation& x, const int32_t* rows, int64_t first, int64_t count,
                          float* h) = 0;

  // Replaces the upper triangle of H by the upper Cholesky factor U of its inverse, H^-1 = U^T U;
  // the strict lower triangle is neither read nor written. Returns -1 on success, else the index of
  // a row whose pivot was not positive (or not finite); the upper triangle is then unspecified.
  virtual int64_t InverseCholesky(float* h, int64_t n) = 0;

  // C[m, n] += alpha * A^T B, with A [k, m] and B [k, n]; leading dimensions given.
  virtual void TransposedMultiplyAdd(float alpha, const float* a, int64_t lda, const float* b,
                                     int64_t ldb, float* c, int64_t ldc, int64_t m, int64_t n,
                                     int64_t k) = 0;

  // What decides the last bits of the results beside the inputs: the instruction set, by the name
  // that NIBBLE_INSTRUCTION_SET has for it, and the library; "avx512: OpenBLAS 0.3.21 SkylakeX".
  // Where signatures are equal, so are bits. Throws kNotFound if the library is not installed.
  virtual std::string signature() const = 0;

  // Memory that is held beside the arguments: by GramUpdate of up to `count` chosen rows of x, and
  // by InverseCholesky (of each call from inside a ParallelFor body).
  virtual int64_t GramScratchBytes(int64_t count, int64_t n) const = 0;
  virtual int64_t FactorScratchBytes(int64_t n) const = 0;
};

}  // namespace nibble
