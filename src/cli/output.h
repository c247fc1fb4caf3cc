#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

// What a command prints. stdout carries results only, and every write of it is checked: a full disk
// or a closed stream is an error, never a short result. Nothing else in this room writes there.
namespace nibble {

// Makes file descriptors 0, 1 and 2 refuse reads and writes where the parent closed them, instead
// of standing for the next files that are opened. Call it first.
void OpenStandardStreams();

// To stdout, through its buffer. Throws Error (kIo, or kResourceExhausted for a full disk) where it
// cannot be written. Where the reader of a pipe has gone the process ends as by SIGPIPE: quietly,
// even if the parent ignores that signal.
void PrintText(std::string_view text);

template <typename... Args>
void Print(fmt::format_string<Args...> format, Args&&... args) {
  PrintText(fmt::format(format, std::forward<Args>(args)...));
}

// The document, indented, with a final newline. Bytes that are not UTF-8 (of paths) become U+FFFD.
void PrintJson(const Json& document);

// Hands the buffer over to the system: at the end, and after each piece of what is streamed. Throws
// as PrintText.
void FlushOutput();

// A table for people: columns padded, columns of numbers right-aligned.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> headings);
  void AddRow(std::vector<std::string> cells);  // as many cells as headings
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // headings first
};

}  // namespace nibble
