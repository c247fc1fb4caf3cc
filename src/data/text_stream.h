#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace nibble {

// A text file read sequentially in constant memory. The extension determines the compression: .gz,
// .zst, or none.
class TextStream {
 public:
  explicit TextStream(const std::filesystem::path& path);  // throws kNotFound, kIo
  TextStream(TextStream&&) noexcept;
  ~TextStream();

  // The next bytes, at most some hundred KiB; empty at the end. Valid until the next call. Throws
  // kIo, kInvalidData (damaged compressed data).
  std::string_view NextChunk();

  // The next line without its newline or the file's byte order mark; nullopt at the end. The last
  // line needs no newline. Valid until the next call. Throws as NextChunk, and kInvalidData for a
  // line longer than kMaxLineBytes.
  std::optional<std::string_view> NextLine();

  int64_t line_number() const { return line_number_; }  // of the last line returned, from 1

  static constexpr size_t kMaxLineBytes = size_t{1} << 28;

 private:
  struct Source;
  std::unique_ptr<Source> source_;
  std::string buffer_;     // of NextChunk
  std::string_view rest_;  // not yet scanned by NextLine
  std::string line_;       // a line that crosses chunks
  int64_t line_number_ = 0;
};

// `name` without ".gz" or ".zst", in lower case: "Rows.JSONL.gz" → "rows.jsonl".
std::string UncompressedName(const std::filesystem::path& name);

}  // namespace nibble
