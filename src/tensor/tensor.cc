#include "tensor/tensor.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/math.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector register

// Unaligned loads are fine here: file formats may place tensors anywhere.
template <typename Stored>
void Widen(const std::byte* data, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    Stored value;
    std::memcpy(&value, data + i * sizeof(Stored), sizeof(Stored));
    out[i] = static_cast<float>(value);
  }
}

template <typename Stored>
void Round(std::span<const float> values, std::byte* data) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Stored value(values[i]);
    std::memcpy(data + i * sizeof(Stored), &value, sizeof(Stored));
  }
}

// The first element whose exponent bits are all ones.
template <typename Bits, Bits kExponent>
int64_t FindAllOnesExponent(std::span<const std::byte> bytes) {
  for (size_t at = 0; at < bytes.size(); at += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + at, sizeof(Bits));
    if ((bits & kExponent) == kExponent) return static_cast<int64_t>(at / sizeof(Bits));
  }
  return -1;
}

Error NoFloat(DType dtype) {
  return Error(
      ErrorCode::kUnsupported,
      fmt::format("cannot compute with {} elements: expected BF16, F16 or F32", DTypeName(dtype)));
}

}  // namespace

template <typename T>
std::span<const T> TensorView::As() const {
  NIBBLE_CHECK(dtype_ == DTypeOf<T>::value);
  NIBBLE_CHECK(reinterpret_cast<uintptr_t>(data_) % alignof(T) == 0);
  return {reinterpret_cast<const T*>(data_), static_cast<size_t>(num_elements())};
}

TensorView TensorView::Rows(int64_t first, int64_t count) const {
  NIBBLE_CHECK(shape_.rank() >= 1);
  NIBBLE_CHECK(first >= 0 && count >= 0 && first <= shape_[0] - count);
  std::array<int64_t, Shape::kMaxRank> dims{};
  std::copy(shape_.dims().begin(), shape_.dims().end(), dims.begin());
  dims[0] = count;
  const Shape rows(std::span<const int64_t>(dims.data(), shape_.dims().size()));
  const int64_t row_bytes = shape_[0] == 0 ? 0 : size_bytes() / shape_[0];
  return TensorView(data_ + first * row_bytes, dtype_, rows);
}

void Tensor::Free::operator()(std::byte* data) const { std::free(data); }

Tensor::Tensor(DType dtype, Shape shape) : dtype_(dtype), shape_(shape) {
  const auto size = static_cast<size_t>(shape.num_elements() * DTypeSize(dtype));
  if (size == 0) return;
  void* data = std::aligned_alloc(kAlignment, RoundUp(size, kAlignment));
  if (data == nullptr) {
    throw Error(ErrorCode::kResourceExhausted,
                fmt::format("out of memory: a {} tensor {} needs {} bytes", DTypeName(dtype),
                            shape.ToString(), size));
  }
  std::memset(data, 0, size);
  data_.reset(static_cast<std::byte*>(data));
}

Tensor Tensor::Copy(const TensorView& view) {
  Tensor tensor(view.dtype(), view.shape());
  if (view.size_bytes() > 0) {
    std::memcpy(tensor.data(), view.data(), static_cast<size_t>(view.size_bytes()));
  }
  return tensor;
}

template <typename T>
Tensor Tensor::FromVector(const std::vector<T>& values, Shape shape) {
  NIBBLE_CHECK(static_cast<int64_t>(values.size()) == shape.num_elements());
  return Copy(
      TensorView(reinterpret_cast<const std::byte*>(values.data()), DTypeOf<T>::value, shape));
}

template <typename T>
std::span<T> Tensor::As() {
  const std::span<const T> values = view().As<T>();
  return {const_cast<T*>(values.data()), values.size()};
}

#define NIBBLE_INSTANTIATE(T)                            \
  template std::span<const T> TensorView::As<T>() const; \
  template std::span<T> Tensor::As<T>();                 \
  template Tensor Tensor::FromVector<T>(const std::vector<T>&, Shape);
NIBBLE_INSTANTIATE(uint8_t)
NIBBLE_INSTANTIATE(int8_t)
NIBBLE_INSTANTIATE(int32_t)
NIBBLE_INSTANTIATE(int64_t)
NIBBLE_INSTANTIATE(float)
NIBBLE_INSTANTIATE(double)
NIBBLE_INSTANTIATE(BFloat16)
NIBBLE_INSTANTIATE(Float16)
#undef NIBBLE_INSTANTIATE

std::vector<float> ToFloat(const TensorView& view) {
  std::vector<float> values(view.num_elements());
  ToFloat(view, values);
  return values;
}

void ToFloat(const TensorView& view, std::span<float> out) {
  NIBBLE_CHECK(static_cast<int64_t>(out.size()) == view.num_elements());
  switch (view.dtype()) {
    case DType::kBF16:
      return Widen<BFloat16>(view.data(), out);
    case DType::kF16:
      return Widen<Float16>(view.data(), out);
    case DType::kF32:
      return Widen<float>(view.data(), out);
    default:
      throw NoFloat(view.dtype());
  }
}

Tensor FromFloat(std::span<const float> values, DType dtype, Shape shape) {
  NIBBLE_CHECK(static_cast<int64_t>(values.size()) == shape.num_elements());
  if (dtype != DType::kBF16 && dtype != DType::kF16 && dtype != DType::kF32) throw NoFloat(dtype);
  Tensor tensor(dtype, shape);
  if (dtype == DType::kBF16) Round<BFloat16>(values, tensor.data());
  if (dtype == DType::kF16) Round<Float16>(values, tensor.data());
  if (dtype == DType::kF32) Round<float>(values, tensor.data());
  return tensor;
}

int64_t FindNonFinite(const TensorView& view) {
  switch (view.dtype()) {
    case DType::kBF16:
      return FindAllOnesExponent<uint16_t, 0x7f80u>(view.bytes());
    case DType::kF16:
      return FindAllOnesExponent<uint16_t, 0x7c00u>(view.bytes());
    case DType::kF32:
      return FindAllOnesExponent<uint32_t, 0x7f800000u>(view.bytes());
    default:
      throw NoFloat(view.dtype());
  }
}

}  // namespace nibble
