#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

namespace nibble {

// Device memory, freed by whoever allocated it when the last owner goes. Movable.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, int64_t size_bytes, std::function<void(void*)> free)
      : data_(data, std::move(free)), size_bytes_(size_bytes) {}

  void* data() const { return data_.get(); }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  std::unique_ptr<void, std::function<void(void*)>> data_{nullptr, [](void*) {}};
  int64_t size_bytes_ = 0;
};

// Activations [rows, cols] in float on the backend's device, row-major without gaps. `rows` may
// shrink and grow within the capacity it was made with.
struct Activation {
  Buffer buffer;
  int64_t rows = 0;
  int64_t cols = 0;

  float* data() const { return static_cast<float*>(buffer.data()); }
  float* row(int64_t index) const { return data() + index * cols; }  // host backends only
  int64_t capacity_rows() const {
    return cols == 0 ? 0 : buffer.size_bytes() / (cols * static_cast<int64_t>(sizeof(float)));
  }
};

}  // namespace nibble
