#pragma once

#include "backend/linalg.h"

namespace nibble {

// Plain loops in double, one thread: the slow twin of every other Linalg.
class ReferenceLinalg final : public Linalg {
 public:
  void GramUpdate(const float* x, const int32_t* rows, int64_t count, int64_t cols,
                  float* h) override;
  int64_t InverseCholesky(float* h, int64_t n) override;
  void TransposedMultiplyAdd(float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
                             float* c, int64_t ldc, int64_t m, int64_t n, int64_t k) override;
  void ParallelFor(int64_t count,
                   const std::function<void(int64_t index, int thread)>& body) override;
  int num_threads() const override { return 1; }
};

}  // namespace nibble
