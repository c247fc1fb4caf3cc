#include "tensor/packed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/math.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// How codes of one width sit in 32-bit words.
struct Width {
  explicit Width(int bits_in) : bits(bits_in), per_word(bits_in > 0 ? 32 / bits_in : 1) {
    if (bits != 4 && bits != 8) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("packed codes have 4 or 8 bits; found {}", bits));
    }
  }

  int bits;
  int64_t per_word;
  int bias() const { return 1 << (bits - 1); }
  uint32_t mask() const { return (1u << bits) - 1u; }
  int64_t WordsFor(int64_t codes) const { return CeilDiv(codes, per_word); }
};

// Word `index` of packed data that a file may have placed at any address.
uint32_t LoadWord(const std::byte* data, int64_t index) {
  uint32_t word = 0;
  std::memcpy(&word, data + index * 4, 4);
  return word;
}

uint32_t Encode(int8_t code, const Width& width) {
  const int biased = code + width.bias();
  if (biased < 0 || biased > static_cast<int>(width.mask())) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("code {} does not fit {} bits", static_cast<int>(code), width.bits));
  }
  return static_cast<uint32_t>(biased);
}

int Decode(uint32_t word, int64_t position, const Width& width) {
  const auto biased = static_cast<int>((word >> (position * width.bits)) & width.mask());
  return biased - width.bias();
}

void CheckShape(const TensorView& view, DType dtype, const Shape& shape, const char* what) {
  if (view.dtype() != dtype || view.shape() != shape) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: expected {} {}, found {} {}", what, DTypeName(dtype),
                            shape.ToString(), DTypeName(view.dtype()), view.shape().ToString()));
  }
}

}  // namespace

PackedView PackedTensor::view() const {
  PackedView view{bits, rows, cols, group_size, packed.view(), scales.view(), {}, {}};
  if (zero_point) view.zero_point = zero_point->view();
  if (g_idx) view.g_idx = g_idx->view();
  return view;
}

Tensor PackCodes(std::span<const int8_t> codes, int64_t rows, int64_t cols, int bits) {
  const Width width(bits);
  NIBBLE_CHECK(static_cast<int64_t>(codes.size()) == rows * cols);
  const int64_t words = width.WordsFor(cols);
  Tensor packed(DType::kI32, {rows, words});
  const std::span<int32_t> out = packed.As<int32_t>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t word = 0; word < words; ++word) {
      const int64_t first = word * width.per_word;
      const int64_t count = std::min(width.per_word, cols - first);
      uint32_t value = 0;
      for (int64_t k = 0; k < count; ++k) {
        const int8_t code = codes[row * cols + first + k];
        value |= Encode(code, width) << (k * bits);
      }
      out[row * words + word] = static_cast<int32_t>(value);
    }
  }
  return packed;
}

std::vector<int8_t> UnpackCodes(const TensorView& packed, int64_t rows, int64_t cols, int bits) {
  const Width width(bits);
  const int64_t words = width.WordsFor(cols);
  CheckShape(packed, DType::kI32, {rows, words}, "packed codes");
  std::vector<int8_t> codes(rows * cols);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      const uint32_t word = LoadWord(packed.data(), row * words + col / width.per_word);
      codes[row * cols + col] = static_cast<int8_t>(Decode(word, col % width.per_word, width));
    }
  }
  return codes;
}

Tensor PackZeroPoints(std::span<const int8_t> zero_points, int64_t rows, int64_t groups, int bits) {
  const Width width(bits);
  NIBBLE_CHECK(static_cast<int64_t>(zero_points.size()) == rows * groups);
  Tensor packed(DType::kI32, {width.WordsFor(rows), groups});
  const std::span<int32_t> out = packed.As<int32_t>();
  for (int64_t row = 0; row < rows; ++row) {
    const auto shift = static_cast<int>(row % width.per_word) * bits;
    for (int64_t group = 0; group < groups; ++group) {
      const int8_t code = zero_points[row * groups + group];
      int32_t& word = out[row / width.per_word * groups + group];
      word = static_cast<int32_t>(static_cast<uint32_t>(word) | (Encode(code, width) << shift));
    }
  }
  return packed;
}

std::vector<int8_t> UnpackZeroPoints(const TensorView& packed, int64_t rows, int64_t groups,
                                     int bits) {
  const Width width(bits);
  CheckShape(packed, DType::kI32, {width.WordsFor(rows), groups}, "packed zero points");
  std::vector<int8_t> zero_points(rows * groups);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t group = 0; group < groups; ++group) {
      const uint32_t word = LoadWord(packed.data(), row / width.per_word * groups + group);
      zero_points[row * groups + group] =
          static_cast<int8_t>(Decode(word, row % width.per_word, width));
    }
  }
  return zero_points;
}

std::vector<float> Dequantize(const PackedView& view) {
  std::vector<float> values(view.rows * view.cols);
  DequantizeRows(view, 0, view.rows, values);
  return values;
}

void DequantizeRows(const PackedView& view, int64_t first, int64_t count, std::span<float> out) {
  const Width width(view.bits);
  NIBBLE_CHECK(first >= 0 && count >= 0 && first <= view.rows - count);
  NIBBLE_CHECK(static_cast<int64_t>(out.size()) == count * view.cols);
  NIBBLE_CHECK(view.group_size >= 1 && view.cols % view.group_size == 0);
  const int64_t words = width.WordsFor(view.cols);
  const int64_t groups = view.num_groups();

  // With g_idx the group of a column is looked up; without it, it follows from the position.
  std::vector<int32_t> group_of(view.cols);
  if (view.g_idx) {
    std::memcpy(group_of.data(), view.g_idx->data(), group_of.size() * sizeof(int32_t));
    for (const int32_t group : group_of) NIBBLE_CHECK(group >= 0 && group < groups);
  } else {
    for (int64_t col = 0; col < view.cols; ++col) {
      group_of[col] = static_cast<int32_t>(col / view.group_size);
    }
  }

  std::vector<float> scales(groups);
  std::vector<int> zeros(groups, 0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = first + i;
    ToFloat(view.scales.Rows(row, 1), scales);
    if (view.zero_point) {
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t index = row / width.per_word * groups + group;
        const uint32_t word = LoadWord(view.zero_point->data(), index);
        zeros[group] = Decode(word, row % width.per_word, width);
      }
    }
    float* target = out.data() + i * view.cols;
    for (int64_t col = 0; col < view.cols; ++col) {
      const uint32_t word = LoadWord(view.packed.data(), row * words + col / width.per_word);
      const int code = Decode(word, col % width.per_word, width);
      const auto group = static_cast<size_t>(group_of[col]);
      target[col] = static_cast<float>(code - zeros[group]) * scales[group];
    }
  }
}

}  // namespace nibble
