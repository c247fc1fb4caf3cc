#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

// An open file, closed with the object: the one owner of a file descriptor. Interrupted calls are
// repeated and short ones continued. Throws kNotFound, kIo or kResourceExhausted (disk full) with
// the file, what could not be done to it, and why. Movable; ReadAt and WriteAt may be called from
// several threads.
class File {
 public:
  File() = default;  // not open
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  // An existing file, for reading; a folder or a pipe is refused.
  static File Open(const std::filesystem::path& path);
  // For reading and writing anywhere; created where absent, its content kept.
  static File OpenToUpdate(const std::filesystem::path& path);
  // An existing file, for writing at its end.
  static File OpenToAppend(const std::filesystem::path& path);
  // A new file, for reading and writing, which errors call `shown_as`. Not open if there is
  // something of that name.
  static File CreateNew(const std::filesystem::path& path, const std::filesystem::path& shown_as);
  // A new file in `folder` that has no name and is gone when closed, also by a kill. `what` says in
  // errors what is in it.
  static File CreateNameless(const std::filesystem::path& folder, std::string_view what);

  bool is_open() const { return descriptor_ >= 0; }
  int64_t Size() const;

  // All of `out` from `offset` on; kIo if the file ends before.
  void ReadAt(std::span<std::byte> out, int64_t offset) const;
  // What comes next, up to the size of `out`: 0 bytes at the end alone.
  size_t Read(std::span<std::byte> out);
  void WriteAt(std::span<const std::byte> bytes, int64_t offset);
  // After what was written before, or at the end.
  void Write(std::span<const std::byte> bytes);
  void Write(std::string_view text) { Write(std::as_bytes(std::span(text))); }

  // Makes the file at least so long, and takes the space from the disk where the file system can:
  // then a full disk shows now and not hours later. What is new reads as zeros.
  void Reserve(int64_t size);
  void Truncate(int64_t size);
  // False if another process holds it. For as long as the file is open; where the file system has
  // no locks, always true.
  bool Lock();
  void Flush();  // what was written is on disk when this returns
  void Close();  // says what the destructor cannot: that closing failed

 private:
  friend class MappedFile;
  // `descriptor` may be that of a failed call to open, of which errno tells.
  File(int descriptor, std::string name, const char* action);
  [[noreturn]] void Fail(const char* action, int code) const;

  std::string name_;  // in errors
  int descriptor_ = -1;
};

// A file that was created or renamed is on disk under its name only when its folder is. Some file
// systems cannot flush a folder; there this does nothing. Throws kNotFound, kIo.
void FlushFolder(const std::filesystem::path& folder);

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

  // Hints about `range`, which must lie inside bytes(): WillNeed prefetches it, DontNeed drops its
  // resident pages.
  void WillNeed(std::span<const std::byte> range) const;
  void DontNeed(std::span<const std::byte> range) const;
  // Hint for random access (MADV_RANDOM): a fault then reads one page without readahead.
  void ExpectJumps(bool jumps) const;

 private:
  // madvise over bytes [first, last), `first` at the start of a page.
  void Advise(size_t first, size_t last, int advice) const;

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Writes a file so that a reader sees the whole content or none of it: bytes go to a temporary name
// in the same folder; Commit() flushes to disk and renames. Destroyed without Commit: removes the
// temporary file.
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
  File file_;
};

// True for names that AtomicFile gives its temporary files. If no process is writing in the folder,
// such a file is the leftover of a killed one.
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
