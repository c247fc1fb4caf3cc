#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/float16.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace nibble {

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::kI8;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<Float16> {
  static constexpr DType value = DType::kF16;
};

// Borrowed, read-only, dense row-major host memory with a type and a shape. Its source documents
// the lifetime. The bytes may be unaligned only where a file format makes them so; typed access
// checks.
class TensorView {
 public:
  TensorView() = default;
  TensorView(const std::byte* data, DType dtype, Shape shape)
      : data_(data), dtype_(dtype), shape_(shape) {}

  const std::byte* data() const { return data_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t num_elements() const { return shape_.num_elements(); }
  int64_t size_bytes() const { return num_elements() * DTypeSize(dtype_); }
  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(size_bytes())}; }

  // The elements as T; a bug (CHECK) if T is not the dtype or the data is misaligned for T.
  template <typename T>
  std::span<const T> As() const;

  // Rows [first, first + count) of the outermost axis.
  TensorView Rows(int64_t first, int64_t count) const;

 private:
  const std::byte* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Shape shape_;
};

// Owns 64-byte-aligned host memory. Movable; a deep copy is Copy().
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape);  // zero-filled; throws kResourceExhausted
  static Tensor Copy(const TensorView& view);
  template <typename T>
  static Tensor FromVector(const std::vector<T>& values, Shape shape);

  TensorView view() const { return TensorView(data_.get(), dtype_, shape_); }
  std::byte* data() { return data_.get(); }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  template <typename T>
  std::span<T> As();
  template <typename T>
  std::span<const T> As() const {
    return view().As<T>();
  }

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  DType dtype_ = DType::kF32;
  Shape shape_;
};

// Every element of a BF16, F16 or F32 tensor as float, exactly. Throws kUnsupported for other
// types.
std::vector<float> ToFloat(const TensorView& view);
void ToFloat(const TensorView& view, std::span<float> out);

// Rounds floats to `dtype` (BF16, F16 or F32).
Tensor FromFloat(std::span<const float> values, DType dtype, Shape shape);

// Index of the first NaN or infinity, or -1.
int64_t FindNonFinite(const TensorView& view);

}  // namespace nibble
