#pragma once

#include <cstdint>

#include "backend/buffer.h"
#include "base/check.h"

namespace nibble {

// Activations [rows, cols] on a backend's device, in an element type of the backend's own. Ops set
// the shape of what they write, within the capacity it was made with.
struct Activation {
  Buffer buffer;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t capacity = 0;  // elements

  int64_t capacity_rows() const { return cols == 0 ? 0 : capacity / cols; }
  void Resize(int64_t new_rows, int64_t new_cols) {
    NIBBLE_CHECK(new_rows >= 0 && new_cols > 0 && new_rows * new_cols <= capacity);
    rows = new_rows;
    cols = new_cols;
  }
};

}  // namespace nibble
