#pragma once

#include <cstdint>

#include "backend/cuda/host_device.h"

// W4T: how every CUDA kernel reads 4-bit weights. One packing serves `mma.sync` on sm_80 and later
// and `wgmma` with A in registers on sm_90a: weights are the A operand (16 rows x 16 inputs), and
// both instructions give a lane the same elements.
//
//   word    16 rows x 16 inputs, a 32-bit word for each lane = 4g + t. Bits 4j..4j+3 hold the
//           code at (row g + 8(j & 1), input 2t + 8(j >> 1)), bits 16+4j.. the same row's next
//           input, so that (word >> 4j) & 0x000f000f is register j of the fragment. Codes are
//           q + 8, as in the checkpoint.
//   vector  the words of a lane for four consecutive blocks of 16 inputs: 16 bytes; a warp reads
//           512 bytes in a row
//   record  64 rows x 128 inputs, one scale group: [row tile of 16][half of 64 inputs][lane][16 B],
//           then 64 BF16 scales: 4224 bytes
//   matrix  [panel][group][record of the panel]: a group of a panel is one run of bytes, and a
//           panel one sequential stream; 0.515625 bytes a weight
//
// A panel has 256 rows where that divides the rows, else 128 or 64. Rows are padded to a multiple
// of 64 with zero weights (code 8, scale 0), which kernels compute and do not store. Inputs are not
// padded: the packer refuses a width that is not a multiple of 128.
namespace nibble::cuda {

inline constexpr int kW4TileRows = 16;
inline constexpr int kW4GroupCols = 128;
inline constexpr int kW4RecordRows = 64;
inline constexpr int kW4ScaleOffset = kW4RecordRows * kW4GroupCols / 2;  // within a record
inline constexpr int kW4RecordBytes = kW4ScaleOffset + 2 * kW4RecordRows;
inline constexpr int kW4MaxPanelRows = 256;

// The sizes of a matrix. Plain data, passed to kernels by value.
struct W4Layout {
  int64_t rows = 0;  // as the model counts them; of the merged matrix where several are merged
  int64_t cols = 0;  // a multiple of 128
  int32_t panel_rows = 0;

  NIBBLE_HOST_DEVICE constexpr int64_t padded_rows() const {
    return (rows + kW4RecordRows - 1) / kW4RecordRows * kW4RecordRows;
  }
  NIBBLE_HOST_DEVICE constexpr int64_t num_panels() const { return padded_rows() / panel_rows; }
  NIBBLE_HOST_DEVICE constexpr int64_t num_groups() const { return cols / kW4GroupCols; }
  NIBBLE_HOST_DEVICE constexpr int32_t records_per_panel() const {
    return panel_rows / kW4RecordRows;
  }
  // One group of one panel.
  NIBBLE_HOST_DEVICE constexpr int64_t panel_group_bytes() const {
    return static_cast<int64_t>(records_per_panel()) * kW4RecordBytes;
  }
  NIBBLE_HOST_DEVICE constexpr int64_t size_bytes() const {
    return num_panels() * num_groups() * panel_group_bytes();
  }
  NIBBLE_HOST_DEVICE constexpr int64_t RecordOffset(int64_t row, int64_t group) const {
    return (row / panel_rows * num_groups() + group) * panel_group_bytes() +
           row % panel_rows / kW4RecordRows * kW4RecordBytes;
  }
};

NIBBLE_HOST_DEVICE constexpr W4Layout MakeW4Layout(int64_t rows, int64_t cols) {
  W4Layout layout{rows, cols, kW4RecordRows};
  for (const int32_t height : {256, 128}) {
    if (layout.padded_rows() % height == 0) {
      layout.panel_rows = height;
      break;
    }
  }
  return layout;
}

// Where a code lies: 4 bits from `shift` on of the little-endian 32-bit word at `byte`.
struct W4CodePosition {
  int64_t byte;
  int shift;
};

NIBBLE_HOST_DEVICE constexpr W4CodePosition CodePosition(const W4Layout& layout, int64_t row,
                                                         int64_t col) {
  const int r = static_cast<int>(row % kW4RecordRows);
  const int k = static_cast<int>(col % kW4GroupCols);
  const int tile = r / 16;
  const int half = k / 64;
  const int block = k % 64 / 16;
  const int lane = r % 8 * 4 + k % 8 / 2;
  const int j = r % 16 / 8 + k % 16 / 8 * 2;
  const int64_t record = layout.RecordOffset(row, col / kW4GroupCols);
  return {record + ((tile * 2 + half) * 32 + lane) * 16 + block * 4, k % 2 * 16 + 4 * j};
}

// Byte offset of the BF16 scale of a row's group.
NIBBLE_HOST_DEVICE constexpr int64_t ScalePosition(const W4Layout& layout, int64_t row,
                                                   int64_t group) {
  return layout.RecordOffset(row, group) + kW4ScaleOffset + row % kW4RecordRows * 2;
}

// The word of lane 4g + t from four checkpoint words of eight codes each: inputs 0..7 and 8..15 of
// the block, of row g (`upper`) and of row g + 8 (`lower`).
NIBBLE_HOST_DEVICE constexpr uint32_t PackW4Word(uint32_t upper_0, uint32_t upper_8,
                                                 uint32_t lower_0, uint32_t lower_8, int t) {
  const uint32_t source[4] = {upper_0, lower_0, upper_8, lower_8};
  uint32_t word = 0;
  for (int j = 0; j < 4; ++j) {
    const uint32_t pair = source[j] >> (8 * t) & 0xff;
    word |= (pair & 0xf) << (4 * j) | (pair >> 4) << (16 + 4 * j);
  }
  return word;
}

// Rows of several matrices merged into one, so that values that meet in an epilogue lie in one
// lane. Row `row` of the merged matrix is row `row` of part `part`.
struct W4SourceRow {
  int part;
  int64_t row;
};

// Gate (part 0) and up (part 1), eight rows of each in turn: rows g and g + 8 of a tile, which one
// lane accumulates, are gate and up of the same feature. Their height is a multiple of 8.
NIBBLE_HOST_DEVICE constexpr W4SourceRow GateUpSource(int64_t row) {
  return {static_cast<int>(row % 16 / 8), row / 16 * 8 + row % 8};
}

// Queries (part 0), keys (1) and values (2) below each other. Within a head of queries or keys,
// tile i has rows 8i..8i+7 of the first half, then those of the second: the two values that a
// rotation mixes are rows g and g + 8 of a tile. head_dim is a multiple of 16.
NIBBLE_HOST_DEVICE constexpr W4SourceRow QkvSource(int64_t row, int64_t num_heads,
                                                   int64_t num_kv_heads, int64_t head_dim) {
  const int64_t q_rows = num_heads * head_dim;
  const int64_t k_rows = num_kv_heads * head_dim;
  if (row >= q_rows + k_rows) return {2, row - q_rows - k_rows};
  const int part = row < q_rows ? 0 : 1;
  const int64_t inner = part == 0 ? row : row - q_rows;
  const int64_t within = inner % head_dim;
  return {part, inner - within + within % 16 / 8 * (head_dim / 2) + within / 16 * 8 + within % 8};
}

}  // namespace nibble::cuda
