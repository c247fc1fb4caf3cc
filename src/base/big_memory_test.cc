#include "base/big_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

TEST(Pages, AreZeroWritableAndMove) {
  Pages pages(10000, "a test");
  EXPECT_EQ(pages.size(), 10000u);
  EXPECT_TRUE(std::all_of(pages.data(), pages.data() + pages.size(),
                          [](std::byte byte) { return byte == std::byte{0}; }));
  pages.data()[9999] = std::byte{7};
  Pages moved = std::move(pages);
  EXPECT_EQ(moved.data()[9999], std::byte{7});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(moved.data()) % 64, 0u);
  EXPECT_EQ(Pages().data(), nullptr);
  EXPECT_EQ(Pages(0, "nothing").data(), nullptr);
}

TEST(Pages, TooManyAreRefusedByName) {
  try {
    const Pages pages(std::numeric_limits<size_t>::max() / 4, "a test");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    EXPECT_NE(std::string(error.what()).find("a test"), std::string::npos);
  }
}

}  // namespace
}  // namespace nibble
