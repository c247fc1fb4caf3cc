#include "backend/backend.h"

#include "base/check.h"

namespace nibble {

Activation Backend::MakeActivation(int64_t capacity_rows, int64_t cols) {
  NIBBLE_CHECK(capacity_rows >= 0 && cols > 0);
  Activation activation;
  activation.buffer = Allocate(capacity_rows * cols * static_cast<int64_t>(sizeof(float)));
  activation.cols = cols;
  return activation;
}

}  // namespace nibble
