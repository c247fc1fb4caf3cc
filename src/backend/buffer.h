#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

namespace nibble {

// Device memory with the deleter of its allocator. Movable; one owner.
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

}  // namespace nibble
