#pragma once

#include <cstdint>

#include "backend/gptq_algebra.h"
#include "base/big_memory.h"

namespace nibble {

// Up to this size a Hessian is too small to be shared among threads: one sums and factors it, while
// others do the same with others.
inline constexpr int64_t kSmallHessian = 1024;

// The running Gram matrix X^T X of one layer input (a tap), shared by the Linears that read it.
// Only the upper triangle is kept. Sums are in single precision over blocks of rows of fixed size,
// so they depend on the order of the calibration tokens alone.
//
// GPTQ's Hessian is twice that: HessianFactor (gptq/hessian_factor.h), which is given data(),
// doubles the sums in place and then puts the factor there. After that nothing may be added.
class Hessian {
 public:
  // All zeros; pages become resident when first written. Throws kResourceExhausted.
  explicit Hessian(int64_t size);
  Hessian(Hessian&& other) = default;
  Hessian& operator=(Hessian&&) = delete;

  // Adds `count` inputs: rows[0], rows[1], … of x [.., size], or first, first + 1, … if `rows` is
  // null.
  void Add(const Activation& x, const int32_t* rows, int64_t first, int64_t count,
           GptqAlgebra& algebra);

  static int64_t SizeBytes(int64_t size) { return size * size * int64_t{sizeof(float)}; }

  int64_t size() const { return size_; }
  int64_t tokens() const { return tokens_; }
  float* data() const { return reinterpret_cast<float*>(memory_.data()); }
  bool finite() const;  // checks the diagonal, where every NaN and overflow shows

 private:
  int64_t size_ = 0;
  int64_t tokens_ = 0;
  BigMemory memory_;
};

}  // namespace nibble
