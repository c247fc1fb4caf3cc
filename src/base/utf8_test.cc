#include "base/utf8.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace nibble {
namespace {

// A code point in UTF-8, by the definition.
std::string Encode(uint32_t point) {
  const auto byte = [](uint32_t value) { return static_cast<char>(static_cast<uint8_t>(value)); };
  if (point < 0x80) return {byte(point)};
  if (point < 0x800) return {byte(0xc0 | point >> 6), byte(0x80 | (point & 63))};
  if (point < 0x10000) {
    return {byte(0xe0 | point >> 12), byte(0x80 | (point >> 6 & 63)), byte(0x80 | (point & 63))};
  }
  return {byte(0xf0 | point >> 18), byte(0x80 | (point >> 12 & 63)), byte(0x80 | (point >> 6 & 63)),
          byte(0x80 | (point & 63))};
}

TEST(ScanUtf8, TakesEveryCodePointButSurrogates) {
  for (uint32_t point = 0; point <= 0x110000; ++point) {
    const bool valid = point < 0x110000 && (point < 0xd800 || point > 0xdfff);
    ASSERT_EQ(IsValidUtf8(Encode(point)), valid) << point;
  }
}

TEST(ScanUtf8, CallsEveryCutCharacterIncomplete) {
  for (const uint32_t point :
       {0x80u, 0x7ffu, 0x800u, 0xd7ffu, 0xe000u, 0xffffu, 0x10000u, 0x10ffffu}) {
    const std::string whole = "ab" + Encode(point);
    for (size_t length = 3; length < whole.size(); ++length) {
      const Utf8Scan scan = ScanUtf8(std::string_view(whole).substr(0, length));
      EXPECT_EQ(scan.valid_bytes, 2u) << point;
      EXPECT_TRUE(scan.incomplete) << point;
    }
  }
}

TEST(ScanUtf8, StopsAtBytesNothingCanFinish) {
  for (const char* text :
       {"a\x80", "a\xc0\x80", "a\xc1\xbf", "a\xe0\x80\x80", "a\xf0\x80\x80\x80",
        "a\xf4\x90\x80\x80", "a\xf5", "a\xff", "a\xc3(", "a\xe2\x82(", "a\xed\xa0"}) {
    const Utf8Scan scan = ScanUtf8(text);
    EXPECT_EQ(scan.valid_bytes, 1u) << text;
    EXPECT_FALSE(scan.incomplete) << text;
  }
}

TEST(Utf8Prefix, NeverCutsACharacter) {
  const std::string text = "aé€😀b";
  EXPECT_EQ(Utf8Prefix(text, 100), text);
  EXPECT_EQ(Utf8Prefix(text, 1), "a");
  EXPECT_EQ(Utf8Prefix(text, 2), "a");
  EXPECT_EQ(Utf8Prefix(text, 3), "aé");
  EXPECT_EQ(Utf8Prefix(text, 9), "aé€");
  EXPECT_EQ(Utf8Prefix(text, 10), "aé€😀");
  EXPECT_EQ(Utf8Prefix("\x80\x80", 1), "");
}

TEST(Quoted, ShowsControlCharactersAndCutsLongText) {
  EXPECT_EQ(Quoted("a\n\x1b[31m\x7f"), "\"a\\x0a\\x1b[31m\\x7f\"");
  EXPECT_EQ(Quoted(std::string(1000, 'x')), "\"" + std::string(200, 'x') + "…\"");
}

}  // namespace
}  // namespace nibble
