#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "base/big_memory.h"

namespace nibble {

// The activations of all calibration tokens between two layers: [rows, cols] floats, in memory, or
// in a file without a name that vanishes with the process, when memory is short. Movable.
class HiddenStates {
 public:
  HiddenStates() = default;
  static HiddenStates InMemory(int64_t rows, int64_t cols);  // throws kResourceExhausted
  // In `directory`, which must exist. Throws kIo, kResourceExhausted (disk full).
  static HiddenStates InFile(int64_t rows, int64_t cols, const std::filesystem::path& directory);
  ~HiddenStates();
  HiddenStates(HiddenStates&& other) noexcept;
  HiddenStates& operator=(HiddenStates&& other) noexcept;

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool in_file() const { return descriptor_ >= 0; }

  // Rows [first, first + count) themselves, or an empty span if they are in a file.
  std::span<float> Rows(int64_t first, int64_t count);
  std::span<const float> Rows(int64_t first, int64_t count) const;

  // A copy of rows [first, first + out.size() / cols), and their replacement.
  void Load(int64_t first, std::span<float> out) const;
  void Store(int64_t first, std::span<const float> rows);

 private:
  HiddenStates(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {}
  size_t Bytes() const { return static_cast<size_t>(rows_ * cols_) * sizeof(float); }

  int64_t rows_ = 0;
  int64_t cols_ = 0;
  Pages pages_;
  float* data_ = nullptr;  // in pages_; null in a file
  int descriptor_ = -1;
};

}  // namespace nibble
