#include "backend/host/host_memory.h"

#include <memory>

#include "base/big_memory.h"
#include "base/check.h"

namespace nibble {

Buffer HostBuffer(int64_t bytes) {
  const auto memory = std::make_shared<BigMemory>(bytes, "the model");
  return Buffer(memory->data(), bytes, [memory](void*) {});
}

Activation HostActivation(int64_t capacity_rows, int64_t cols) {
  NIBBLE_CHECK(capacity_rows >= 0 && cols > 0);
  const int64_t capacity = capacity_rows * cols;
  return {.buffer = HostBuffer(capacity * static_cast<int64_t>(sizeof(float))),
          .rows = 0,
          .cols = cols,
          .capacity = capacity};
}

}  // namespace nibble
