#include "quantize/gptq/hessian.h"

#include <cmath>

#include "base/check.h"

namespace nibble {

Hessian::Hessian(int64_t size) : size_(size), memory_(SizeBytes(size), "a Hessian") {}

void Hessian::Add(const Activation& x, const int32_t* rows, int64_t first, int64_t count,
                  GptqAlgebra& algebra) {
  NIBBLE_CHECK(x.cols == size_);
  algebra.GramUpdate(x, rows, first, count, data());
  tokens_ += count;
}

bool Hessian::finite() const {
  for (int64_t i = 0; i < size_; ++i) {
    if (!std::isfinite(data()[i * size_ + i])) return false;
  }
  return true;
}

}  // namespace nibble
