#pragma once

#include <cstdint>

#include "backend/cuda/host_device.h"

// The layout of paged keys and values (the KV cache), the same for every kernel that reads or
// writes them.
namespace nibble::cuda {

// A row whose sequence is -1 is padding: no kernel reads or writes a page for it, no expert runs on
// it, and its results are zero.
constexpr int32_t kPaddingRow = -1;

// The pages of one layer: [page][keys, values][kv head][page_tokens][head_dim].
struct PageShape {
  int32_t num_pages = 0;
  int32_t page_tokens = 64;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;

  // In elements, from the start of the layer's pages.
  NIBBLE_HOST_DEVICE constexpr int64_t KeyOffset(int64_t page, int32_t head, int32_t slot) const {
    return ((page * 2 * kv_heads + head) * page_tokens + slot) * head_dim;
  }
  NIBBLE_HOST_DEVICE constexpr int64_t ValueOffset(int64_t page, int32_t head, int32_t slot) const {
    return KeyOffset(page, head + kv_heads, slot);
  }
  NIBBLE_HOST_DEVICE constexpr int64_t elements() const { return KeyOffset(num_pages, 0, 0); }
  // The number of vectors (a key or a value of one token and head, head_dim elements); the vector
  // at element `offset` has index offset / head_dim.
  NIBBLE_HOST_DEVICE constexpr int64_t runs() const { return elements() / head_dim; }
};

// The contents of the pages: bf16 elements, or int8 codes with one scale per vector, element = code
// * scale. A vector with a non-finite element has scale NaN; one too small to divide by has scale
// 0.
struct PageData {
  void* elements = nullptr;  // __nv_bfloat16 or int8_t, as PageShape says
  float* scales = nullptr;   // [runs]; null: the elements are bf16
};

// The pages of each sequence in order: position p of sequence s is slot p % page_tokens of page
// pages[s * max_pages + p / page_tokens].
struct PageTable {
  const int32_t* pages = nullptr;  // [sequences, max_pages]
  int32_t max_pages = 0;

  NIBBLE_HOST_DEVICE constexpr int64_t PageOf(int32_t sequence, int32_t position,
                                              int32_t page_tokens) const {
    return pages[int64_t{sequence} * max_pages + position / page_tokens];
  }
};

}  // namespace nibble::cuda
