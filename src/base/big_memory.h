#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace nibble {

// Zeroed memory aligned to 64 bytes, with 64 readable bytes behind it. From 2 MiB on it comes
// straight from the kernel, in huge pages where it has them, and is resident from first use on:
// filling gigabytes in small pages takes longer than computing what goes there, and weights that
// are read front to back would cost a page walk every 4 KiB. Movable.
class BigMemory {
 public:
  BigMemory() = default;  // none: data() is null
  // `what` names the purpose, for the error. Throws kResourceExhausted.
  BigMemory(int64_t bytes, std::string_view what);
  ~BigMemory();
  BigMemory(BigMemory&& other) noexcept;
  BigMemory& operator=(BigMemory&& other) noexcept;

  std::byte* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_bytes_ = 0;
  void* mapping_ = nullptr;  // in which the data lies, if it comes from the kernel
  size_t mapping_bytes_ = 0;
};

// Scratch that grows to the largest size ever asked for and then stays: the content is lost when it
// grows. Aligned to 64 bytes. Not for more than one thread.
class Scratch {
 public:
  template <typename T>
  T* Get(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (bytes > memory_.size_bytes()) Grow(bytes);
    return reinterpret_cast<T*>(memory_.data());
  }

 private:
  void Grow(int64_t bytes);

  BigMemory memory_;
};

}  // namespace nibble
