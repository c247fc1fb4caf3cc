#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace nibble {

// The result of scanning text from its start.
struct Utf8Scan {
  size_t valid_bytes = 0;   // length of the longest prefix of whole, valid characters
  bool incomplete = false;  // the rest is the start of a character that more bytes could finish
};

// Strict: no overlong forms, no surrogates, nothing above U+10FFFF. Linear time.
Utf8Scan ScanUtf8(std::string_view text);

bool IsValidUtf8(std::string_view text);

// The longest prefix of at most `max_bytes` bytes that does not cut a character. For messages.
std::string_view Utf8Prefix(std::string_view text, size_t max_bytes);

// Untrusted text (a tensor name, a key) for a message: in double quotes, control characters as
// \xNN, cut after about 200 bytes.
std::string Quoted(std::string_view text);

}  // namespace nibble
