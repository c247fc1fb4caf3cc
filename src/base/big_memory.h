#pragma once

#include <cstddef>

namespace nibble {

// Zeroed memory straight from the kernel, in huge pages where it has them: filling gigabytes in
// small ones takes longer than computing what goes there. Resident from first use on. Movable.
class Pages {
 public:
  Pages() = default;
  // `what` names the purpose, for the error. Throws kResourceExhausted.
  Pages(size_t bytes, const char* what);
  ~Pages();
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;

  std::byte* data() const { return data_; }  // null if there are no bytes
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace nibble
