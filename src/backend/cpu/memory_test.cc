#include "backend/cpu/memory.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

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

TEST(HostMemory, LosesNoHugePageBehindTheData) {
  constexpr int64_t kHugePage = 2 << 20;
  const int64_t bytes = 3 * kHugePage + 5000;
  const Buffer buffer = AllocateHostMemory(bytes);
  std::memset(buffer.data(), 1, static_cast<size_t>(bytes));
  auto* const data = static_cast<char*>(buffer.data());
  EXPECT_GE(ResidentBytes(data), 3 * kHugePage);
  // The tail is a mapping of its own, of small pages.
  EXPECT_LE(ResidentBytes(data + 3 * kHugePage), 64 * 1024);
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
