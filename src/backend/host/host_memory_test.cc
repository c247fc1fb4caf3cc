#include "backend/host/host_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

namespace nibble {
namespace {

TEST(HostMemory, IsZeroedAlignedAndMoves) {
  for (const int64_t bytes : {0, 1, 4097, (4 << 20) + 5}) {
    Buffer buffer = HostBuffer(bytes);
    EXPECT_EQ(buffer.size_bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    auto* const data = static_cast<unsigned char*>(buffer.data());
    for (int64_t i = 0; i < bytes + 64; i += 61) ASSERT_EQ(data[i], 0) << bytes << " " << i;
    if (bytes == 0) continue;
    data[bytes - 1] = 7;
    const Buffer moved = std::move(buffer);
    EXPECT_EQ(static_cast<const unsigned char*>(moved.data())[bytes - 1], 7);
  }
}

TEST(HostMemory, HoldsTheActivationsItWasAskedFor) {
  const Activation x = HostActivation(3, 5);
  EXPECT_EQ(x.rows, 0);
  EXPECT_EQ(x.cols, 5);
  EXPECT_EQ(x.capacity, 15);
  EXPECT_EQ(x.buffer.size_bytes(), 60);
}

}  // namespace
}  // namespace nibble
