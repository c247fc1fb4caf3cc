#include "base/big_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "nibble/error.h"

namespace nibble {

Pages::Pages(size_t bytes, const char* what) : size_(bytes) {
  if (bytes == 0) return;
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    const int code = errno;
    throw Error(ErrorCode::kResourceExhausted, fmt::format("cannot allocate {} bytes for {}: {}",
                                                           bytes, what, std::strerror(code)));
  }
  ::madvise(data, bytes, MADV_HUGEPAGE);  // a wish: without it the memory is only slower
  data_ = static_cast<std::byte*>(data);
}

Pages::~Pages() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace nibble
