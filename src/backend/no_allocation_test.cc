#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "backend/backend.h"
#include "base/math.h"
#include "tests/support/testing_layer.h"

// Invariant 6 of ARCHITECTURE.md: after warm-up a backend call allocates nothing on the heap.
// Counted by replacing the global operator new of the test program. The operators are never
// inlined, so that the compiler keeps pairing new with delete, not new with free.
namespace {

std::atomic<int64_t> allocations = 0;

void* Counted(std::size_t size, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  const std::size_t rounded = nibble::RoundUp(size, alignment);
  return std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded);
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  void* const data = Counted(size, alignof(std::max_align_t));
  if (data == nullptr) throw std::bad_alloc();
  return data;
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  void* const data = Counted(size, static_cast<std::size_t>(alignment));
  if (data == nullptr) throw std::bad_alloc();
  return data;
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment,
                                     const std::nothrow_t&) noexcept {
  return Counted(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::align_val_t) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::size_t, std::align_val_t) noexcept {
  std::free(data);
}

namespace nibble::testing {
namespace {

TEST(CpuBackend, AllocatesNothingAfterWarmUp) {
  struct Case {
    int bits;
    DType pages;
    std::vector<SequenceStep> sequences;
  };
  // The last ones divide the context among the threads.
  for (const auto& [bits, pages, sequences] :
       {Case{0, DType::kF32, {{20, 1}, {0, 40}}}, Case{4, DType::kF32, {{20, 1}, {0, 40}}},
        Case{4, DType::kBF16, {{1200, 1}}}, Case{4, DType::kI8, {{1200, 1}}}}) {
    const TestLayer layer({.name = "",
                           .shape = {.hidden = 128},
                           .format = {.bits = bits, .group_size = 32},
                           .kv_dtype = pages,
                           .sequences = sequences});
    const auto backend = MakeBackend("cpu", {.threads = 2, .instruction_set = {}});
    LayerOnBackend prepared(layer, *backend);
    prepared.RunStep(nullptr);
    const int64_t before = allocations.load();
    prepared.RunStep(nullptr);
    EXPECT_EQ(allocations.load() - before, 0) << bits << " " << DTypeName(pages);
  }
}

}  // namespace
}  // namespace nibble::testing
