#include "quantize/passes/hidden_states.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "nibble/error.h"

namespace nibble {
namespace {

[[noreturn]] void ThrowErrno(const std::string& what) {
  const int code = errno;
  const bool full = code == ENOSPC || code == EDQUOT || code == ENOMEM;
  throw Error(full ? ErrorCode::kResourceExhausted : ErrorCode::kIo,
              fmt::format("calibration activations: {}: {}", what, std::strerror(code)));
}

}  // namespace

HiddenStates HiddenStates::InMemory(int64_t rows, int64_t cols) {
  HiddenStates states(rows, cols);
  states.pages_ = Pages(states.Bytes(), "calibration activations");
  states.data_ = reinterpret_cast<float*>(states.pages_.data());
  return states;
}

HiddenStates HiddenStates::InFile(int64_t rows, int64_t cols,
                                  const std::filesystem::path& directory) {
  HiddenStates states(rows, cols);
  states.descriptor_ = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (states.descriptor_ < 0) {  // a file system without nameless files
    std::string name = (directory / "activations.XXXXXX").string();
    states.descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
    if (states.descriptor_ < 0) ThrowErrno("cannot create a file in " + directory.string());
    ::unlink(name.c_str());
  }
  if (const int code = ::posix_fallocate(states.descriptor_, 0, static_cast<off_t>(states.Bytes()));
      code != 0 && code != EINVAL && code != EOPNOTSUPP) {
    errno = code;
    ThrowErrno(fmt::format("cannot reserve {} bytes in {}", states.Bytes(), directory.string()));
  }
  return states;
}

HiddenStates::~HiddenStates() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

HiddenStates::HiddenStates(HiddenStates&& other) noexcept
    : rows_(std::exchange(other.rows_, 0)),
      cols_(std::exchange(other.cols_, 0)),
      pages_(std::move(other.pages_)),
      data_(std::exchange(other.data_, nullptr)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

HiddenStates& HiddenStates::operator=(HiddenStates&& other) noexcept {
  std::swap(rows_, other.rows_);
  std::swap(cols_, other.cols_);
  std::swap(pages_, other.pages_);
  std::swap(data_, other.data_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

std::span<float> HiddenStates::Rows(int64_t first, int64_t count) {
  NIBBLE_CHECK(first >= 0 && count >= 0 && first + count <= rows_);
  if (data_ == nullptr) return {};
  return {data_ + first * cols_, static_cast<size_t>(count * cols_)};
}

std::span<const float> HiddenStates::Rows(int64_t first, int64_t count) const {
  return const_cast<HiddenStates*>(this)->Rows(first, count);
}

void HiddenStates::Load(int64_t first, std::span<float> out) const {
  NIBBLE_CHECK(first >= 0 && first * cols_ + static_cast<int64_t>(out.size()) <= rows_ * cols_);
  if (data_ != nullptr) {
    const float* const from = data_ + first * cols_;
    std::copy(from, from + out.size(), out.data());
    return;
  }
  auto bytes = std::as_writable_bytes(out);
  off_t offset = static_cast<off_t>(first * cols_) * static_cast<off_t>(sizeof(float));
  while (!bytes.empty()) {
    const ssize_t count = ::pread(descriptor_, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) ThrowErrno("cannot read back");
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += count;
  }
}

void HiddenStates::Store(int64_t first, std::span<const float> rows) {
  NIBBLE_CHECK(first >= 0 && first * cols_ + static_cast<int64_t>(rows.size()) <= rows_ * cols_);
  if (data_ != nullptr) {
    std::copy(rows.begin(), rows.end(), data_ + first * cols_);
    return;
  }
  auto bytes = std::as_bytes(rows);
  off_t offset = static_cast<off_t>(first * cols_) * static_cast<off_t>(sizeof(float));
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) ThrowErrno("cannot write");
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += count;
  }
}

}  // namespace nibble
