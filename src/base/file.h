#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

// A read-only memory mapping of a whole file. Pages are read on first touch.
class MappedFile {
 public:
  // Throws kNotFound, kIo; kInvalidData for a Git LFS pointer in place of the file.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // Hints about `range`, which must lie inside bytes(): read it soon; forget its resident pages.
  void WillNeed(std::span<const std::byte> range) const;
  void DontNeed(std::span<const std::byte> range) const;
  // Whether a few bytes here and there are wanted: then a page is read alone, not its surroundings.
  void ExpectJumps(bool jumps) const;

 private:
  // madvise over bytes [first, last), `first` at the start of a page.
  void Advise(size_t first, size_t last, int advice) const;

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Writes a file so that a reader sees the whole content or none of it: bytes go to a temporary name
// in the same folder; Commit() flushes to disk and renames. Destroyed without Commit: the temporary
// goes.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(AtomicFile&&) = delete;

  void Write(std::span<const std::byte> bytes);  // throws kIo, kResourceExhausted (disk full)
  void Write(std::string_view text);
  void Commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

// Whether a file of this name is the temporary of an AtomicFile whose process was killed, if none
// of them is alive.
bool IsAtomicFileTemporary(std::string_view name);

// The whole file as text. Throws as MappedFile does.
std::string ReadTextFile(const std::filesystem::path& path);

// AtomicFile in one call.
void WriteTextFile(const std::filesystem::path& path, std::string_view text);

// When a file was last written to, in nanoseconds since 1970. Throws kNotFound, kIo.
int64_t ModificationTime(const std::filesystem::path& path);

// Bytes an unprivileged process may still write to the file system that holds `path`.
int64_t FreeDiskBytes(const std::filesystem::path& path);

}  // namespace nibble
