#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/cuda/w4/w4_layout.h"
#include "base/thread_pool.h"
#include "tensor/packed.h"

// Between the packed weights of a checkpoint and W4T (w4_layout.h), on the host.
namespace nibble::cuda {

// A checkpoint's weight, or the part of it that one rank holds. Borrows what the view borrows.
struct W4Part {
  PackedView weight;
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_col = 0;
  int64_t num_cols = 0;

  static W4Part Whole(const PackedView& weight) { return {weight, 0, weight.rows, 0, weight.cols}; }
};

// The layout that the functions below write: of one matrix, or of several merged into one.
//
// Throws kUnsupported naming what the kernels cannot read: widths other than 4 bits, zero points, a
// group index, scales other than BF16, groups or parts that are not a multiple of 128 inputs, parts
// of different widths; for merged matrices, heights that do not match (GateUpSource, QkvSource).
W4Layout LayoutOfW4(const W4Part& weight);
W4Layout LayoutOfW4GateUp(const W4Part& gate, const W4Part& up);
W4Layout LayoutOfW4Qkv(const W4Part& q, const W4Part& k, const W4Part& v, int64_t head_dim);

// Writes exactly layout.size_bytes() bytes to `out`, which must have that size (CHECK) and an
// alignment of 4. Throws as above. Groups that are longer than 128 inputs have their scale
// repeated.
void PackW4(const W4Part& weight, std::span<std::byte> out, ThreadPool& pool);
void PackW4GateUp(const W4Part& gate, const W4Part& up, std::span<std::byte> out, ThreadPool& pool);
void PackW4Qkv(const W4Part& q, const W4Part& k, const W4Part& v, int64_t head_dim,
               std::span<std::byte> out, ThreadPool& pool);

// Unpacks W4T code by code: the slow inverse.
struct W4Codes {
  std::vector<int8_t> codes;     // [rows, cols], each in [-8, 7]
  std::vector<uint16_t> scales;  // [rows, cols / 128], BF16 bits
};
W4Codes UnpackW4(const W4Layout& layout, std::span<const std::byte> bytes);

}  // namespace nibble::cuda
