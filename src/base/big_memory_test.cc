#include "base/big_memory.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

TEST(BigMemory, IsAlignedAndZeroInEverySize) {
  for (const int64_t bytes : {0, 1, 63, 64, 4097, (2 << 20) - 1, 2 << 20, (6 << 20) + 5}) {
    const BigMemory memory(bytes, "a test");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % 64, 0u) << bytes;
    EXPECT_EQ(memory.size_bytes(), bytes);
    const auto* const data = reinterpret_cast<const unsigned char*>(memory.data());
    for (int64_t i = 0; i < bytes; i += 61) ASSERT_EQ(data[i], 0) << bytes << " " << i;
    if (bytes > 0) std::memset(memory.data(), 1, static_cast<size_t>(bytes));
  }
}

// Resident bytes of the mapping that holds `data`.
int64_t ResidentBytes(const void* data) {
  std::ifstream maps("/proc/self/smaps");
  const auto wanted = reinterpret_cast<uintptr_t>(data);
  int64_t kilobytes = 0;
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t first = 0, last = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &last) == 2) {
      inside = first <= wanted && wanted < last;
    } else if (inside && line.starts_with("Rss:")) {
      kilobytes += std::stoll(line.substr(4));
    }
  }
  return kilobytes * 1024;
}

TEST(BigMemory, LosesNoHugePageBehindTheData) {
  constexpr int64_t kHugePage = 2 << 20;
  const int64_t bytes = 3 * kHugePage + 5000;
  const BigMemory memory(bytes, "a test");
  std::memset(memory.data(), 1, static_cast<size_t>(bytes));
  const std::byte* const data = memory.data();
  EXPECT_GE(ResidentBytes(data), 3 * kHugePage);
  // The tail is a mapping of its own, of small pages.
  EXPECT_LE(ResidentBytes(data + 3 * kHugePage), 64 * 1024);
}

TEST(BigMemory, Moves) {
  for (const int64_t bytes : {1000, 3 << 20}) {
    BigMemory memory(bytes, "a test");
    memory.data()[999] = std::byte{7};
    BigMemory moved = std::move(memory);
    EXPECT_EQ(moved.data()[999], std::byte{7});
    EXPECT_EQ(moved.size_bytes(), bytes);
    moved = BigMemory();
    EXPECT_EQ(moved.data(), nullptr);
    EXPECT_EQ(moved.size_bytes(), 0);
  }
}

TEST(BigMemory, RefusesWhatTheMachineLacksByName) {
  try {
    const BigMemory memory(int64_t{1} << 60, "a test");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    EXPECT_NE(std::string(error.what()).find("bytes for a test"), std::string::npos);
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
}  // namespace nibble
