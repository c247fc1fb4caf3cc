#include "base/big_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstring>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/math.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kSlack = 64;
constexpr std::align_val_t kAlignment{64};

[[noreturn]] void ThrowOutOfMemory(int64_t bytes, std::string_view what) {
  throw Error(ErrorCode::kResourceExhausted,
              fmt::format("out of memory: could not allocate {} bytes for {}; close other programs "
                          "or choose a smaller model or batch",
                          bytes, what));
}

}  // namespace

BigMemory::BigMemory(int64_t bytes, std::string_view what) : size_bytes_(bytes) {
  NIBBLE_CHECK(bytes >= 0);
  if (bytes < kHugePage) {
    const auto size = static_cast<size_t>(bytes + kSlack);
    data_ = static_cast<std::byte*>(::operator new(size, kAlignment, std::nothrow));
    if (data_ == nullptr) ThrowOutOfMemory(bytes, what);
    std::memset(data_, 0, size);
    return;
  }
  // One huge page more than needed, so that the data can start on a page boundary.
  const auto size = static_cast<size_t>(RoundUp(bytes + kSlack, kHugePage) + kHugePage);
  void* const mapping =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) ThrowOutOfMemory(bytes, what);
  const auto address = reinterpret_cast<uintptr_t>(mapping);
  const uintptr_t aligned = RoundUp(address, uintptr_t{kHugePage});
  // Hints; if the kernel ignores them, memory is merely slower. The remainder after the last whole
  // huge page stays in small pages: a model has hundreds of weights, and half a huge page lost for
  // each would be hundreds of megabytes.
  const auto whole = static_cast<size_t>(bytes / kHugePage * kHugePage);
  ::madvise(reinterpret_cast<void*>(aligned), whole, MADV_HUGEPAGE);
  ::madvise(reinterpret_cast<void*>(aligned + whole), size - whole - (aligned - address),
            MADV_NOHUGEPAGE);
  data_ = reinterpret_cast<std::byte*>(aligned);
  mapping_ = mapping;
  mapping_bytes_ = size;
}

BigMemory::~BigMemory() {
  if (mapping_ != nullptr) {
    ::munmap(mapping_, mapping_bytes_);
  } else {
    ::operator delete(data_, kAlignment);
  }
}

BigMemory::BigMemory(BigMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_bytes_(std::exchange(other.mapping_bytes_, 0)) {}

BigMemory& BigMemory::operator=(BigMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  return *this;
}

void Scratch::Grow(int64_t bytes) {
  memory_ = BigMemory();  // first free, then allocate
  memory_ = BigMemory(bytes + bytes / 4, "scratch");
}

}  // namespace nibble
