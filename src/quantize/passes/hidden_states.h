#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "base/big_memory.h"
#include "base/file.h"

namespace nibble {

// The activations of all calibration tokens between two layers: [rows, cols] floats, in memory or,
// if memory is short, in an unnamed file that vanishes with the process. Movable.
class HiddenStates {
 public:
  HiddenStates() = default;
  static HiddenStates InMemory(int64_t rows, int64_t cols);  // throws kResourceExhausted
  // In `directory`, which must exist. Throws kIo, kResourceExhausted (disk full).
  static HiddenStates InFile(int64_t rows, int64_t cols, const std::filesystem::path& directory);
  static int64_t SizeBytes(int64_t rows, int64_t cols) {
    return rows * cols * static_cast<int64_t>(sizeof(float));
  }

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool in_file() const { return file_.is_open(); }

  // Rows [first, first + count) themselves, or an empty span if they are in a file.
  std::span<float> Rows(int64_t first, int64_t count);
  std::span<const float> Rows(int64_t first, int64_t count) const;

  // A copy of rows [first, first + out.size() / cols), and their replacement.
  void Load(int64_t first, std::span<float> out) const;
  void Store(int64_t first, std::span<const float> rows);

 private:
  HiddenStates(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {}
  int64_t Offset(int64_t row) const { return row * cols_ * static_cast<int64_t>(sizeof(float)); }
  float* data() const { return reinterpret_cast<float*>(memory_.data()); }

  int64_t rows_ = 0;
  int64_t cols_ = 0;
  BigMemory memory_;  // or
  File file_;
};

}  // namespace nibble
