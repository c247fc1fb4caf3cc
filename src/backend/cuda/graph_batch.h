#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "backend/cuda/pages.h"

// A captured graph runs a fixed number of rows; a step of fewer is padded with rows that read and
// write nothing. Host code.
namespace nibble::cuda {

// The sizes that graphs are captured for.
constexpr std::array<int32_t, 13> kGraphBatches = {1,  2,  4,  8,   16,  24, 32,
                                                   48, 64, 96, 128, 192, 256};

// The least captured size that holds `rows` rows; 0 where none does (or there are no rows): such a
// step runs without a graph.
constexpr int32_t GraphBatchFor(int32_t rows) {
  if (rows <= 0) return 0;
  for (const int32_t size : kGraphBatches) {
    if (rows <= size) return size;
  }
  return 0;
}

// One step's inputs in buffers of fixed place and size, as a graph reads them.
struct GraphInputs {
  std::span<int32_t> tokens;      // [batch]
  std::span<int32_t> positions;   // [batch]
  std::span<int32_t> sequences;   // [batch]
  std::span<int32_t> pages;       // [batch, max_pages], a sequence a row
  std::span<int32_t> logit_rows;  // [batch]
  int32_t max_pages = 0;
};

// Makes rows [rows, batch) padding, where batch is the size of the arrays, and overwrites what an
// earlier step left there with indices that are always valid (token 0, position 0, page 0, row 0);
// kPaddingRow makes kernels skip these rows.
inline void PadInputs(int32_t rows, const GraphInputs& inputs) {
  const auto fill = [](std::span<int32_t> values, int64_t first, int32_t value) {
    std::fill(values.begin() + first, values.end(), value);
  };
  fill(inputs.tokens, rows, 0);
  fill(inputs.positions, rows, 0);
  fill(inputs.sequences, rows, kPaddingRow);
  fill(inputs.pages, int64_t{rows} * inputs.max_pages, 0);
  fill(inputs.logit_rows, rows, 0);
}

}  // namespace nibble::cuda
