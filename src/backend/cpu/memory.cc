#include "backend/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "base/check.h"
#include "nibble/error.h"

namespace nibble::cpu {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kSlack = 64;
constexpr std::align_val_t kAlignment{64};

[[noreturn]] void ThrowOutOfMemory(int64_t bytes) {
  throw Error(ErrorCode::kResourceExhausted,
              "out of memory: could not allocate " + std::to_string(bytes) +
                  " bytes; close other programs or choose a smaller model or batch");
}

Buffer AllocateMapped(int64_t bytes) {
  // One page more than needed, so that the data can start on a page edge.
  const auto size =
      static_cast<size_t>((bytes + kSlack + 2 * kHugePage - 1) / kHugePage * kHugePage);
  void* const mapping =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) ThrowOutOfMemory(bytes);
  const auto address = reinterpret_cast<uintptr_t>(mapping);
  const uintptr_t aligned = (address + kHugePage - 1) / kHugePage * kHugePage;
  // Wishes: unheard, the memory is only slower. What is left behind the last whole huge page stays
  // in small ones: a model has hundreds of weights, and half a huge page lost with each would be
  // hundreds of megabytes.
  const auto whole = static_cast<size_t>(bytes / kHugePage * kHugePage);
  madvise(reinterpret_cast<void*>(aligned), whole, MADV_HUGEPAGE);
  madvise(reinterpret_cast<void*>(aligned + whole), size - whole - (aligned - address),
          MADV_NOHUGEPAGE);
  return Buffer(reinterpret_cast<void*>(aligned), bytes,
                [mapping, size](void*) { munmap(mapping, size); });
}

}  // namespace

Buffer AllocateHostMemory(int64_t bytes) {
  NIBBLE_CHECK(bytes >= 0);
  if (bytes >= kHugePage) return AllocateMapped(bytes);
  const auto size = static_cast<size_t>(bytes + kSlack);
  void* const data = ::operator new(size, kAlignment, std::nothrow);
  if (data == nullptr) ThrowOutOfMemory(bytes);
  std::memset(data, 0, size);
  return Buffer(data, bytes, [](void* pointer) { ::operator delete(pointer, kAlignment); });
}

void Scratch::Grow(int64_t bytes) {
  buffer_ = Buffer();  // first free, then allocate
  buffer_ = AllocateHostMemory(bytes + bytes / 4);
}

}  // namespace nibble::cpu
