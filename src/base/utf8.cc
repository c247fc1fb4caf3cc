#include "base/utf8.h"

#include <fmt/format.h>

#include <cstdint>

namespace nibble {
namespace {

// Bytes of the character a lead byte starts, and the range of its second byte (the Unicode
// standard's table 3-7: the second byte alone decides overlong forms, surrogates and the upper
// end).
struct Lead {
  int length = 0;  // 0: cannot start a character
  uint8_t low = 0x80;
  uint8_t high = 0xbf;
};

Lead Classify(uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xc2) return {0};
  if (byte < 0xe0) return {2};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte < 0xf4) return {4};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0};
}

}  // namespace

Utf8Scan ScanUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Lead lead = Classify(static_cast<uint8_t>(text[at]));
    if (lead.length == 0) return {at, false};
    for (int i = 1; i < lead.length; ++i) {
      const size_t next = at + static_cast<size_t>(i);
      if (next == text.size()) return {at, true};
      const auto byte = static_cast<uint8_t>(text[next]);
      const uint8_t low = i == 1 ? lead.low : 0x80;
      const uint8_t high = i == 1 ? lead.high : 0xbf;
      if (byte < low || byte > high) return {at, false};
    }
    at += static_cast<size_t>(lead.length);
  }
  return {at, false};
}

bool IsValidUtf8(std::string_view text) { return ScanUtf8(text).valid_bytes == text.size(); }

std::string_view Utf8Prefix(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  while (max_bytes > 0 && (static_cast<uint8_t>(text[max_bytes]) & 0xc0) == 0x80) --max_bytes;
  return text.substr(0, max_bytes);
}

std::string Quoted(std::string_view text) {
  const std::string_view shown = Utf8Prefix(text, 200);
  std::string quoted = "\"";
  for (const char c : shown) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || byte == 0x7f) {
      quoted += fmt::format("\\x{:02x}", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + (shown.size() < text.size() ? "…\"" : "\"");
}

}  // namespace nibble
