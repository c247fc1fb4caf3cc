#pragma once

#include "backend/gptq_algebra.h"

namespace nibble {

// Plain loops in double on the calling thread: the slow twin of every other GptqAlgebra.
class ReferenceAlgebra final : public GptqAlgebra {
 public:
  ThreadPool& threads() override { return pool_; }
  void GramUpdate(const Activation& x, const int32_t* rows, int64_t first, int64_t count,
                  float* h) override;
  int64_t InverseCholesky(float* h, int64_t n) override;
  void TransposedMultiplyAdd(float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
                             float* c, int64_t ldc, int64_t m, int64_t n, int64_t k) override;
  std::string signature() const override { return "reference: plain loops in double"; }
  int64_t GramScratchBytes(int64_t /*count*/, int64_t /*n*/) const override { return 0; }
  int64_t FactorScratchBytes(int64_t n) const override;

 private:
  ThreadPool pool_{1};
};

}  // namespace nibble
