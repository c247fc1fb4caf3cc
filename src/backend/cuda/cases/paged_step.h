#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "backend/cuda/cases/problem.h"
#include "backend/cuda/pages.h"

namespace nibble::cuda::bench {

// The rows of a step over several sequences whose pages lie scattered in the pool.
struct PagedStep {
  std::vector<int32_t> positions;  // [rows]
  std::vector<int32_t> sequences;  // [rows]
  std::vector<int32_t> pages;      // [sequences, max_pages]
  int32_t max_pages = 0;
  PageShape shape;

  int32_t rows() const { return static_cast<int32_t>(positions.size()); }
  PageTable table(const int32_t* device_pages) const {
    return {.pages = device_pages, .max_pages = max_pages};
  }
  // Index of the first element of the key (or value) of a position in the cache.
  size_t KeyAt(int32_t sequence, int32_t position, int32_t head) const;
  size_t ValueAt(int32_t sequence, int32_t position, int32_t head) const;
};

struct SequenceRows {
  int32_t rows = 1;     // in this step, the last of its tokens
  int32_t context = 1;  // tokens after the step
};

// The last `padding` rows belong to no sequence. The pool also has pages that no sequence owns.
PagedStep MakePagedStep(const std::vector<SequenceRows>& sequences, int32_t padding,
                        int32_t page_tokens, int32_t kv_heads, int32_t head_dim, Random& random);

// The contents of the pages, bf16 or int8, as PageData documents.
struct HostPages {
  std::vector<__nv_bfloat16> elements;  // empty if int8
  std::vector<int8_t> codes;
  std::vector<float> scales;  // one per vector

  double At(size_t i) const {
    if (scales.empty()) return ToDouble(elements[i]);
    const size_t run_elements = codes.size() / scales.size();
    return ToDouble(codes[i]) * static_cast<double>(scales[i / run_elements]);
  }
  double bytes_per_element() const {
    if (scales.empty()) return 2;
    return 1 + 4 * static_cast<double>(scales.size()) / static_cast<double>(codes.size());
  }
};

// Elements of deviation 1.
HostPages RandomPages(const PageShape& shape, bool int8, Random& random);

}  // namespace nibble::cuda::bench
