#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace nibble {

// What messages call the input at `path`: the path as it is, or "standard input".
std::string InputName(const std::filesystem::path& path);

// Bytes that a user names to be read: a file, a pipe such as a shell's <(…), or "-", standard
// input. What a pipe gives is kept in memory, so that every reader may begin at the front.
class Input {
 public:
  // Throws kNotFound, kIo (for a folder, too), kResourceExhausted for more than kMaxPipedBytes, and
  // kInterrupted while it waits for a pipe.
  explicit Input(const std::filesystem::path& path);
  ~Input();
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  const std::string& name() const { return name_; }
  const std::filesystem::path& path() const { return path_; }

  // A descriptor at the first byte, for the caller to close. All of one Input share their position:
  // they take turns.
  int Open() const;

  // The bytes at `position`, fewer where the end comes first; a negative position counts from it.
  std::string Peek(int64_t position, size_t count) const;

  static constexpr int64_t kMaxPipedBytes = int64_t{4} << 30;

 private:
  std::filesystem::path path_;
  std::string name_;
  int descriptor_ = -1;
};

// How rows are written.
enum class Format {
  kText,  // a row a line
  kJson,  // objects one after another, such as JSON Lines, or one array
  kCsv,
  kTsv,
  kParquet
};

// The one rule for all files of rows: the end of the name says it, .gz and .zst apart and in
// letters of any size. A name without an extension, such as a pipe's, is Parquet if the bytes are,
// else `otherwise`. So is a name with another extension if that is text, which any file may be;
// else it throws kUnsupported naming those that are known.
Format FormatOf(const Input& input, Format otherwise);

}  // namespace nibble
