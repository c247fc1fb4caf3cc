#include "quantize/hessian.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cmath>
#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

size_t Bytes(int64_t size) { return static_cast<size_t>(size * size) * sizeof(float); }

}  // namespace

Hessian::Hessian(int64_t size) : size_(size) {
  void* const data = ::mmap(nullptr, Bytes(size), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    throw Error(
        ErrorCode::kResourceExhausted,
        fmt::format("cannot allocate {} bytes for a Hessian of {} inputs", Bytes(size), size));
  }
  data_ = static_cast<float*>(data);
}

Hessian::~Hessian() {
  if (data_ != nullptr) ::munmap(data_, Bytes(size_));
}

Hessian::Hessian(Hessian&& other) noexcept
    : size_(other.size_), tokens_(other.tokens_), data_(std::exchange(other.data_, nullptr)) {}

void Hessian::Add(const float* x, const int32_t* rows, int64_t count, Linalg& linalg) {
  linalg.GramUpdate(x, rows, count, size_, data_);
  tokens_ += count;
}

bool Hessian::finite() const {
  for (int64_t i = 0; i < size_; ++i) {
    if (!std::isfinite(data_[i * size_ + i])) return false;
  }
  return true;
}

}  // namespace nibble
