#pragma once

#include <optional>

#include "tensor/tensor.h"

// The packed-integer layout of compressed-tensors ("pack-quantized"): the one source of truth.
// Source: docs/formats.md#pack-quantized.
namespace nibble {

// A quantized Linear [rows, cols] as a checkpoint stores it. Borrows everything.
//
//   packed      I32 [rows, ceil(cols * bits / 32)]         code k of a row sits in word
//                                                          k / (32 / bits) from bit
//                                                          bits * (k % (32 / bits)) on, that is,
//                                                          lowest first, as code + 2^(bits-1)
//   scales      BF16/F16/F32 [rows, num_groups]
//   zero_point  I32 [ceil(rows * bits / 32), num_groups]   asymmetric only; packed along the rows
//   g_idx       I32 [cols]                                 act-order "group" only: the group of
//                                                          each column
struct PackedView {
  int bits = 4;  // 4 or 8
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 128;  // == cols for one group a row (strategy "channel")
  TensorView packed;
  TensorView scales;
  std::optional<TensorView> zero_point;
  std::optional<TensorView> g_idx;

  int64_t num_groups() const { return cols / group_size; }
};

// Owns what a PackedView borrows.
struct PackedTensor {
  int bits = 4;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 128;
  Tensor packed;
  Tensor scales;
  std::optional<Tensor> zero_point;
  std::optional<Tensor> g_idx;

  PackedView view() const;
};

// Packs signed codes along the columns.
//   codes   [rows, cols] int8, each in [-2^(bits-1), 2^(bits-1) - 1]
//   result  I32 [rows, ceil(cols * bits / 32)]; the tail of a row is zero bits
// Throws kInvalidArgument for a code out of range or other bits.
Tensor PackCodes(std::span<const int8_t> codes, int64_t rows, int64_t cols, int bits);

// The inverse of PackCodes.
std::vector<int8_t> UnpackCodes(const TensorView& packed, int64_t rows, int64_t cols, int bits);

// Zero points packed along the rows: [rows, groups] int8 ↔ I32 [ceil(rows * bits / 32), groups].
Tensor PackZeroPoints(std::span<const int8_t> zero_points, int64_t rows, int64_t groups, int bits);
std::vector<int8_t> UnpackZeroPoints(const TensorView& packed, int64_t rows, int64_t groups,
                                     int bits);

// (code - zero point) * scale in float, [rows, cols]; not rounded further.
std::vector<float> Dequantize(const PackedView& view);

// Rows [first, first + count) only; out holds count * cols floats.
void DequantizeRows(const PackedView& view, int64_t first, int64_t count, std::span<float> out);

}  // namespace nibble
