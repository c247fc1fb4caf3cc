#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// The error for a system call that failed on `path` with `code` (an errno value).
Error SystemError(const std::filesystem::path& path, const char* action, int code) {
  ErrorCode kind = ErrorCode::kIo;
  const char* hint = "";
  if (code == ENOENT) {
    kind = ErrorCode::kNotFound;
  } else if (code == ENOSPC || code == EDQUOT || code == EFBIG) {
    kind = ErrorCode::kResourceExhausted;
    hint = "; free some space or choose another disk";
  } else if (code == ENOMEM || code == EMFILE || code == ENFILE) {
    kind = ErrorCode::kResourceExhausted;
  }
  return Error(
      kind, fmt::format("{}: cannot {}: {}{}", path.string(), action, std::strerror(code), hint));
}

// Whether this is what git leaves where it did not fetch the file itself: a few lines that name it.
// Source: https://github.com/git-lfs/git-lfs, the pointer in its specification.
bool IsLfsPointer(int descriptor, int64_t size) {
  constexpr std::string_view kStart = "version https://git-lfs.github.com/spec/";
  constexpr int64_t kMaxBytes = 1023;
  std::array<char, kStart.size()> start{};
  return size <= kMaxBytes &&
         ::pread(descriptor, start.data(), start.size(), 0) == std::ssize(start) &&
         std::string_view(start.data(), start.size()) == kStart;
}

// Opens for reading; only regular files, so that a folder or a pipe gets a clear message, and no
// pointers that stand for a file.
int OpenForReading(const std::filesystem::path& path, int64_t& size) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) throw SystemError(path, "open", errno);
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) {
    const int code = errno;
    ::close(descriptor);
    throw SystemError(path, "inspect", code);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor);
    throw Error(ErrorCode::kIo,
                path.string() + (S_ISDIR(status.st_mode) ? ": expected a file, found a folder"
                                                         : ": expected a regular file"));
  }
  size = status.st_size;
  if (IsLfsPointer(descriptor, size)) {
    ::close(descriptor);
    throw Error(
        ErrorCode::kInvalidData,
        path.string() + ": a Git LFS pointer, not the file itself; run git lfs pull beside it");
  }
  return descriptor;
}

void FlushFolder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw SystemError(folder, "open", errno);
  const int result = ::fsync(descriptor);
  const int code = errno;
  ::close(descriptor);
  // Some network file systems cannot sync a folder; the rename itself has succeeded.
  if (result != 0 && code != EINVAL && code != ENOTSUP) throw SystemError(folder, "flush", code);
}

size_t PageBytes() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }

std::filesystem::path FolderOf(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  int64_t size = 0;
  const int descriptor = OpenForReading(path, size);
  if (size > 0) {
    void* data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) {
      const int code = errno;
      ::close(descriptor);
      throw SystemError(path, "map", code);
    }
    data_ = static_cast<const std::byte*>(data);
    size_ = static_cast<size_t>(size);
  }
  ::close(descriptor);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::Advise(size_t first, size_t last, int advice) const {
  ::madvise(const_cast<std::byte*>(data_) + first, last - first, advice);  // a hint: may fail
}

void MappedFile::WillNeed(std::span<const std::byte> range) const {
  if (range.empty()) return;
  const size_t page = PageBytes();
  const auto begin = static_cast<size_t>(range.data() - data_);  // the mapping starts a page
  const size_t first = begin / page * page;
  Advise(first, begin + range.size(), MADV_WILLNEED);
}

void MappedFile::DontNeed(std::span<const std::byte> range) const {
  if (range.empty()) return;
  // Only pages that lie wholly inside: a neighbour's bytes stay.
  const size_t page = PageBytes();
  const auto begin = static_cast<size_t>(range.data() - data_);
  const size_t first = (begin + page - 1) / page * page;
  const size_t last = (begin + range.size()) / page * page;
  if (first < last) Advise(first, last, MADV_DONTNEED);
}

void MappedFile::ExpectJumps(bool jumps) const {
  if (size_ > 0) Advise(0, size_, jumps ? MADV_RANDOM : MADV_NORMAL);
}

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path) {
  // Unique among processes and threads, so two writers of one file never mix; whoever renames last
  // wins.
  static std::atomic<unsigned> counter = 0;
  for (int attempt = 0; attempt < 100; ++attempt) {
    temporary_ = path;
    temporary_ += fmt::format(".{}-{}.partial", ::getpid(), counter.fetch_add(1));
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0) return;
    if (errno != EEXIST) throw SystemError(path, "create", errno);
  }
  throw SystemError(path, "create a temporary file beside it", EEXIST);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::Write(std::span<const std::byte> bytes) {
  NIBBLE_CHECK(descriptor_ >= 0);
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      throw SystemError(path_, "write", errno);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::Write(std::string_view text) { Write(std::as_bytes(std::span(text))); }

void AtomicFile::Commit() {
  NIBBLE_CHECK(descriptor_ >= 0);
  if (::fsync(descriptor_) != 0) throw SystemError(path_, "flush", errno);
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary_.c_str());
    throw SystemError(path_, closed != 0 ? "close" : "rename the finished file", code);
  }
  FlushFolder(FolderOf(path_));
}

bool IsAtomicFileTemporary(std::string_view name) {
  // ANYTHING.PID-COUNT.partial, as the constructor builds it.
  constexpr std::string_view kSuffix = ".partial";
  const auto drop_digits = [&name] {
    const size_t before = name.size();
    while (!name.empty() && name.back() >= '0' && name.back() <= '9') name.remove_suffix(1);
    return name.size() < before;
  };
  const auto drop = [&name](char c) {
    if (name.empty() || name.back() != c) return false;
    name.remove_suffix(1);
    return true;
  };
  if (!name.ends_with(kSuffix)) return false;
  name.remove_suffix(kSuffix.size());
  return drop_digits() && drop('-') && drop_digits() && drop('.') && !name.empty();
}

std::string ReadTextFile(const std::filesystem::path& path) {
  int64_t size = 0;
  const int descriptor = OpenForReading(path, size);
  std::string text;
  int failure = 0;
  // Files in /proc and files that grow: read until the end, whatever the size said.
  text.resize(static_cast<size_t>(size) + 1);
  size_t length = 0;
  for (;;) {
    const ssize_t count = ::read(descriptor, text.data() + length, text.size() - length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) failure = errno;
    if (count <= 0) break;
    length += static_cast<size_t>(count);
    if (length == text.size()) text.resize(text.size() * 2);
  }
  ::close(descriptor);
  if (failure != 0) throw SystemError(path, "read", failure);
  text.resize(length);
  return text;
}

void WriteTextFile(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.Write(text);
  file.Commit();
}

int64_t ModificationTime(const std::filesystem::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) throw SystemError(path, "inspect", errno);
  return static_cast<int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

int64_t FreeDiskBytes(const std::filesystem::path& path) {
  struct statvfs status{};
  if (::statvfs(path.c_str(), &status) != 0) throw SystemError(path, "ask for free space", errno);
  return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
}

}  // namespace nibble
