#pragma once

#include <cstdint>

#include "backend/buffer.h"

namespace nibble::cpu {

// Zeroed memory aligned to 64 bytes, with 64 readable bytes behind it. Large buffers ask for huge
// pages: weights are read front to back, and a page walk every 4 KiB would cost bandwidth. Throws
// kResourceExhausted.
Buffer AllocateHostMemory(int64_t bytes);

// Scratch that grows to the largest size ever asked for and then stays: the content is lost when it
// grows. Not for more than one thread.
class Scratch {
 public:
  template <typename T>
  T* Get(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (bytes > buffer_.size_bytes()) Grow(bytes);
    return static_cast<T*>(buffer_.data());
  }

 private:
  void Grow(int64_t bytes);

  Buffer buffer_;
};

}  // namespace nibble::cpu
