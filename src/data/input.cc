#include "data/input.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "base/current_error.h"
#include "base/interrupt.h"
#include "data/text_stream.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr std::string_view kParquetMagic = "PAR1";

[[noreturn]] void ThrowErrno(const std::string& name, const char* action, int code) {
  throw Error(CodeOfErrno(code),
              fmt::format("{}: cannot {}: {}", name, action, std::strerror(code)));
}

// Closes what it holds, unless it was taken away.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return value_; }
  int Take() { return std::exchange(value_, -1); }

 private:
  int value_;
};

int OpenInput(const std::filesystem::path& path, const std::string& name) {
  for (;;) {  // a named pipe without a writer makes it wait
    const int descriptor = path == "-" ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)
                                       : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) return descriptor;
    if (errno != EINTR) ThrowErrno(name, "open", errno);
    ThrowIfInterrupted();
  }
}

// Everything `source` still has to give, in a file that lies in memory.
int KeepInMemory(int source, const std::string& name) {
  Descriptor kept(::memfd_create("nibble-input", MFD_CLOEXEC));
  if (kept.get() < 0) ThrowErrno(name, "keep in memory", errno);
  std::array<char, 65536> buffer;
  int64_t total = 0;
  for (;;) {
    ThrowIfInterrupted();
    const ssize_t count = ::read(source, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) ThrowErrno(name, "read", errno);
    if (count == 0) return kept.Take();
    total += count;
    if (total > Input::kMaxPipedBytes) {
      throw Error(ErrorCode::kResourceExhausted,
                  fmt::format("{}: more than {} GiB through a pipe; write it to a file", name,
                              Input::kMaxPipedBytes >> 30));
    }
    for (std::span<const char> rest(buffer.data(), static_cast<size_t>(count)); !rest.empty();) {
      const ssize_t written = ::write(kept.get(), rest.data(), rest.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) ThrowErrno(name, "keep in memory", errno);
      rest = rest.subspan(written);
    }
  }
}

}  // namespace

std::string InputName(const std::filesystem::path& path) {
  return path == "-" ? "standard input" : path.string();
}

Input::Input(const std::filesystem::path& path) : path_(path), name_(InputName(path)) {
  Descriptor opened(OpenInput(path, name_));
  struct stat status{};
  if (::fstat(opened.get(), &status) != 0) ThrowErrno(name_, "inspect", errno);
  if (S_ISDIR(status.st_mode)) {
    throw Error(ErrorCode::kIo, name_ + ": expected a file, found a folder");
  }
  // A file on standard input may have been read in part by another process: only the rest counts.
  const bool whole_file = S_ISREG(status.st_mode) && ::lseek(opened.get(), 0, SEEK_CUR) == 0;
  descriptor_ = whole_file ? opened.Take() : KeepInMemory(opened.get(), name_);
}

Input::~Input() { ::close(descriptor_); }

int Input::Open() const {
  Descriptor copy(::fcntl(descriptor_, F_DUPFD_CLOEXEC, 0));
  if (copy.get() < 0) ThrowErrno(name_, "open", errno);
  if (::lseek(copy.get(), 0, SEEK_SET) < 0) ThrowErrno(name_, "read again", errno);
  return copy.Take();
}

std::string Input::Peek(int64_t position, size_t count) const {
  if (position < 0) {
    const off_t size = ::lseek(descriptor_, 0, SEEK_END);
    position = std::max<int64_t>(0, size + position);
  }
  std::string bytes(count, '\0');
  const ssize_t found = ::pread(descriptor_, bytes.data(), count, static_cast<off_t>(position));
  if (found < 0) ThrowErrno(name_, "read", errno);
  bytes.resize(found);
  return bytes;
}

Format FormatOf(const Input& input, Format otherwise) {
  constexpr std::array<std::pair<std::string_view, Format>, 7> kExtensions = {{
      {".json", Format::kJson},
      {".jsonl", Format::kJson},
      {".ndjson", Format::kJson},
      {".csv", Format::kCsv},
      {".tsv", Format::kTsv},
      {".txt", Format::kText},
      {".parquet", Format::kParquet},
  }};
  const std::filesystem::path name = UncompressedName(input.path());
  const std::string extension = name.extension().string();
  const bool compressed = name.string().size() != input.path().filename().string().size();
  for (const auto& [known, format] : kExtensions) {
    if (extension == known && !(format == Format::kParquet && compressed)) return format;
  }
  if (extension.empty()) {
    const auto size = static_cast<int64_t>(kParquetMagic.size());
    const bool is_parquet = input.Peek(0, kParquetMagic.size()) == kParquetMagic &&
                            input.Peek(-size, kParquetMagic.size()) == kParquetMagic;
    return is_parquet ? Format::kParquet : otherwise;
  }
  if (otherwise == Format::kText) return otherwise;
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("{}: the format goes by the name; expected .jsonl, .ndjson, .json, .csv, .tsv or "
                  ".txt, each also with .gz or .zst, or .parquet",
                  input.name()));
}

}  // namespace nibble
