#include "backend/cpu/memory.h"

#include <gtest/gtest.h>

#include <cstring>

#include "nibble/error.h"

namespace nibble::cpu {
namespace {

TEST(HostMemory, IsAlignedAndZeroInEverySize) {
  for (const int64_t bytes : {0, 1, 63, 64, 4097, (2 << 20) - 1, 2 << 20, (6 << 20) + 5}) {
    const Buffer buffer = AllocateHostMemory(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u) << bytes;
    EXPECT_EQ(buffer.size_bytes(), bytes);
    const auto* const data = static_cast<const unsigned char*>(buffer.data());
    for (int64_t i = 0; i < bytes; i += 61) ASSERT_EQ(data[i], 0) << bytes << " " << i;
    if (bytes > 0) std::memset(buffer.data(), 1, static_cast<size_t>(bytes));
  }
}

TEST(HostMemory, RefusesWhatTheMachineLacks) {
  try {
    AllocateHostMemory(int64_t{1} << 60);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
  }
}

TEST(Scratch, GrowsAndThenStays) {
  Scratch scratch;
  float* const first = scratch.Get<float>(1000);
  first[999] = 3.0f;
  EXPECT_EQ(scratch.Get<float>(10), first);
  EXPECT_EQ(scratch.Get<float>(1000)[999], 3.0f);
  float* const larger = scratch.Get<float>(100000);
  larger[99999] = 1.0f;
  EXPECT_EQ(scratch.Get<float>(100000), larger);
}

}  // namespace
}  // namespace nibble::cpu
