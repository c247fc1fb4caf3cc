#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "data/input.h"

namespace nibble {

// A text read from front to back in constant memory, without the byte order mark that may stand
// before it. What gzip or Zstandard compressed is expanded, whatever its name.
class TextStream {
 public:
  explicit TextStream(const Input& input);  // throws kIo
  TextStream(TextStream&&) noexcept;
  ~TextStream();

  // The next bytes, at most some hundred KiB; empty at the end. Valid until the next call. Throws
  // kIo, kInvalidData (damaged compressed data, UTF-16).
  std::string_view NextChunk();

  // The next line without its newline; nullopt at the end. The last line needs no newline. Valid
  // until the next call. Throws as NextChunk, and kInvalidData for a line longer than
  // kMaxLineBytes.
  std::optional<std::string_view> NextLine();

  int64_t line_number() const { return line_number_; }  // of the last line returned, from 1

  static constexpr size_t kMaxLineBytes = size_t{1} << 28;

 private:
  struct Source;
  std::unique_ptr<Source> source_;
  bool at_start_ = true;
  std::string buffer_;     // of NextChunk
  std::string_view rest_;  // not yet scanned by NextLine
  std::string line_;       // a line that crosses chunks
  int64_t line_number_ = 0;
};

// The characters of a text one by one, for readers of rows that find their ends themselves.
class CharStream {
 public:
  explicit CharStream(const Input& input) : name_(input.name()), stream_(input) {}

  // The next character, as an unsigned char; -1 at the end. Throws as TextStream::NextChunk.
  int Peek() {
    if (rest_.empty()) rest_ = stream_.NextChunk();
    return rest_.empty() ? -1 : static_cast<unsigned char>(rest_.front());
  }

  // Goes past it, unless at the end. Lines end in a newline, a carriage return or both.
  void Next() {
    const int c = Peek();
    if (c < 0) return;
    rest_.remove_prefix(1);
    if (c == '\n' || (c == '\r' && Peek() != '\n')) ++line_;
    if (++row_bytes_ > TextStream::kMaxLineBytes) ThrowTooLong();
  }

  int64_t line() const { return line_; }  // of the next character, from 1

  // A row begins here. Next() throws kInvalidData where one is longer than kMaxLineBytes.
  void StartRow() {
    row_line_ = line_;
    row_bytes_ = 0;
  }

 private:
  [[noreturn]] void ThrowTooLong() const;

  std::string name_;
  TextStream stream_;
  std::string_view rest_;
  int64_t line_ = 1;
  int64_t row_line_ = 1;
  size_t row_bytes_ = 0;
};

// `name` without ".gz" or ".zst", in lower case: "Rows.JSONL.gz" → "rows.jsonl".
std::string UncompressedName(const std::filesystem::path& name);

}  // namespace nibble
