#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
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
#include "base/current_error.h"
#include "base/math.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// The error for a system call that failed on the file called `name` with `code` (an errno value).
Error SystemError(const std::string& name, std::string_view action, int code) {
  const bool full = code == ENOSPC || code == EDQUOT || code == EFBIG;
  return Error(CodeOfErrno(code),
               fmt::format("{}: cannot {}: {}{}", name, action, std::strerror(code),
                           full ? "; free some space or choose another disk" : ""));
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

// A system call, repeated as long as signals interrupt it.
template <typename Call>
auto Repeat(Call call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

// Whether the error of flushing a folder means that this is not supported, as on some network and
// user-space file systems, or not allowed, as for a process that may write to the folder but not
// list it.
bool FoldersCannotBeFlushed(int code) {
  return code == EINVAL || code == ENOTSUP || code == ENOSYS || code == EBADF || code == EACCES ||
         code == EPERM;
}

size_t PageBytes() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }

std::filesystem::path FolderOf(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

File::File(int descriptor, std::string name, const char* action)
    : name_(std::move(name)), descriptor_(descriptor) {
  if (descriptor < 0) Fail(action, errno);
}

File::~File() {
  if (is_open()) ::close(descriptor_);
}

File::File(File&& other) noexcept
    : name_(std::move(other.name_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

void File::Fail(const char* action, int code) const { throw SystemError(name_, action, code); }

File File::Open(const std::filesystem::path& path) {
  // Not blocking: a pipe must not wait for its other end.
  File file(Repeat([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); }),
            path.string(), "open");
  struct stat status{};
  if (::fstat(file.descriptor_, &status) != 0) file.Fail("inspect", errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kIo,
                path.string() + (S_ISDIR(status.st_mode) ? ": expected a file, found a folder"
                                                         : ": expected a regular file"));
  }
  if (IsLfsPointer(file.descriptor_, status.st_size)) {
    throw Error(
        ErrorCode::kInvalidData,
        path.string() + ": a Git LFS pointer, not the file itself; run git lfs pull in its folder");
  }
  return file;
}

File File::OpenToUpdate(const std::filesystem::path& path) {
  return File(Repeat([&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666); }),
              path.string(), "open for writing");
}

File File::OpenToAppend(const std::filesystem::path& path) {
  return File(Repeat([&] { return ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC); }),
              path.string(), "open for writing");
}

File File::CreateNew(const std::filesystem::path& path, const std::filesystem::path& shown_as) {
  const int descriptor =
      Repeat([&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
  if (descriptor < 0 && errno == EEXIST) return File();
  return File(descriptor, shown_as.string(), "create");
}

File File::CreateNameless(const std::filesystem::path& folder, std::string_view what) {
  int descriptor =
      Repeat([&] { return ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); });
  if (descriptor < 0) {  // a file system without O_TMPFILE
    std::string name = (folder / "nameless.XXXXXX").string();
    descriptor = ::mkostemp(name.data(), O_CLOEXEC);
    if (descriptor >= 0) ::unlink(name.c_str());
  }
  return File(descriptor, fmt::format("{}: {}", folder.string(), what), "create a file");
}

int64_t File::Size() const {
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0) Fail("inspect", errno);
  return status.st_size;
}

void File::ReadAt(std::span<std::byte> out, int64_t offset) const {
  while (!out.empty()) {
    const ssize_t count =
        Repeat([&] { return ::pread(descriptor_, out.data(), out.size(), offset); });
    if (count < 0) Fail("read", errno);
    if (count == 0) {
      throw Error(ErrorCode::kIo, fmt::format("{}: ends at byte {}, where {} more were expected",
                                              name_, offset, out.size()));
    }
    out = out.subspan(count);
    offset += count;
  }
}

size_t File::Read(std::span<std::byte> out) {
  const ssize_t count = Repeat([&] { return ::read(descriptor_, out.data(), out.size()); });
  if (count < 0) Fail("read", errno);
  return static_cast<size_t>(count);
}

void File::WriteAt(std::span<const std::byte> bytes, int64_t offset) {
  while (!bytes.empty()) {
    const ssize_t count =
        Repeat([&] { return ::pwrite(descriptor_, bytes.data(), bytes.size(), offset); });
    if (count < 0) Fail("write", errno);
    bytes = bytes.subspan(count);
    offset += count;
  }
}

void File::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = Repeat([&] { return ::write(descriptor_, bytes.data(), bytes.size()); });
    if (count < 0) Fail("write", errno);
    bytes = bytes.subspan(count);
  }
}

void File::Reserve(int64_t size) {
  int code = 0;
  do {
    code = ::posix_fallocate(descriptor_, 0, size);  // returns what others leave in errno
  } while (code == EINTR);
  if (code == 0) return;
  // A file system that cannot reserve.
  if (code != EINVAL && code != EOPNOTSUPP) Fail("reserve space", code);
  if (size > Size()) Truncate(size);
}

void File::Truncate(int64_t size) {
  if (Repeat([&] { return ::ftruncate(descriptor_, size); }) != 0) Fail("resize", errno);
}

bool File::Lock() {
  return Repeat([&] { return ::flock(descriptor_, LOCK_EX | LOCK_NB); }) == 0 ||
         errno != EWOULDBLOCK;
}

void File::Flush() {
  if (Repeat([&] { return ::fsync(descriptor_); }) != 0) Fail("flush", errno);
}

void File::Close() {
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) Fail("close", errno);
}

void FlushFolder(const std::filesystem::path& folder) {
  const int descriptor =
      Repeat([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  const int result = descriptor < 0 ? -1 : Repeat([&] { return ::fsync(descriptor); });
  const int code = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (result == 0 || FoldersCannotBeFlushed(code)) return;
  throw SystemError(folder.string(), descriptor < 0 ? "open" : "flush", code);
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const File file = File::Open(path);
  const auto size = static_cast<size_t>(file.Size());
  if (size == 0) return;
  void* const data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.descriptor_, 0);
  if (data == MAP_FAILED) file.Fail("map", errno);
  data_ = static_cast<const std::byte*>(data);
  size_ = size;
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
  // Only whole pages inside the range, so that neighbouring bytes stay resident.
  const size_t page = PageBytes();
  const auto begin = static_cast<size_t>(range.data() - data_);
  const size_t first = RoundUp(begin, page);
  const size_t last = (begin + range.size()) / page * page;
  if (first < last) Advise(first, last, MADV_DONTNEED);
}

void MappedFile::ExpectJumps(bool jumps) const {
  if (size_ > 0) Advise(0, size_, jumps ? MADV_RANDOM : MADV_NORMAL);
}

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path) {
  // Unique among processes and threads, so two writers of one file never mix; the last rename wins.
  static std::atomic<unsigned> counter = 0;
  for (int attempt = 0; attempt < 100; ++attempt) {
    temporary_ = path;
    temporary_ += fmt::format(".{}-{}.partial", ::getpid(), counter.fetch_add(1));
    file_ = File::CreateNew(temporary_, path);
    if (file_.is_open()) return;
  }
  throw SystemError(path.string(), "create a temporary file beside it", EEXIST);
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::Write(std::span<const std::byte> bytes) {
  NIBBLE_CHECK(file_.is_open());
  file_.Write(bytes);
}

void AtomicFile::Write(std::string_view text) { Write(std::as_bytes(std::span(text))); }

void AtomicFile::Commit() {
  NIBBLE_CHECK(file_.is_open());
  file_.Flush();
  file_.Close();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw SystemError(path_.string(), "rename the finished file", errno);
  }
  temporary_.clear();
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
  File file = File::Open(path);
  // Reads until the end, not up to Size(): files in /proc report 0, and files may grow.
  std::string text(static_cast<size_t>(file.Size()) + 1, '\0');
  size_t length = 0;
  while (const size_t count = file.Read(std::as_writable_bytes(std::span(text).subspan(length)))) {
    length += count;
    if (length == text.size()) text.resize(text.size() * 2);
  }
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
  if (::stat(path.c_str(), &status) != 0) throw SystemError(path.string(), "inspect", errno);
  return static_cast<int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

int64_t FreeDiskBytes(const std::filesystem::path& path) {
  struct statvfs status{};
  if (::statvfs(path.c_str(), &status) != 0)
    throw SystemError(path.string(), "ask for free space", errno);
  return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
}

}  // namespace nibble
