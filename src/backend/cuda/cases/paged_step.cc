#include "backend/cuda/cases/paged_step.h"

#include <algorithm>
#include <numeric>

namespace nibble::cuda::bench {

size_t PagedStep::KeyAt(int32_t sequence, int32_t position, int32_t head) const {
  const int64_t page = table(pages.data()).PageOf(sequence, position, shape.page_tokens);
  return static_cast<size_t>(shape.KeyOffset(page, head, position % shape.page_tokens));
}

size_t PagedStep::ValueAt(int32_t sequence, int32_t position, int32_t head) const {
  return KeyAt(sequence, position, head + shape.kv_heads);
}

PagedStep MakePagedStep(const std::vector<SequenceRows>& sequences, int32_t padding,
                        int32_t page_tokens, int32_t kv_heads, int32_t head_dim, Random& random) {
  PagedStep step;
  int32_t used_pages = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const auto& [rows, context] = sequences[s];
    for (int32_t position = context - rows; position < context; ++position) {
      step.positions.push_back(position);
      step.sequences.push_back(static_cast<int32_t>(s));
    }
    const int32_t pages = (context + page_tokens - 1) / page_tokens;
    step.max_pages = std::max(step.max_pages, pages);
    used_pages += pages;
  }
  for (int32_t i = 0; i < padding; ++i) {
    step.positions.push_back(0);
    step.sequences.push_back(kPaddingRow);
  }

  step.shape = {.num_pages = used_pages + 2,
                .page_tokens = page_tokens,
                .kv_heads = kv_heads,
                .head_dim = head_dim};
  std::vector<int32_t> pool(static_cast<size_t>(step.shape.num_pages));
  std::iota(pool.begin(), pool.end(), 0);
  for (size_t i = pool.size(); i-- > 1;) {
    std::swap(pool[i], pool[static_cast<size_t>(random.Below(static_cast<int64_t>(i) + 1))]);
  }
  size_t next = 0;
  for (const SequenceRows& sequence : sequences) {
    for (int32_t i = 0; i < step.max_pages; ++i) {
      const bool owned = i * page_tokens < sequence.context;
      step.pages.push_back(owned ? pool[next++] : 0);
    }
  }
  return step;
}

HostPages RandomPages(const PageShape& shape, bool int8, Random& random) {
  HostPages pages;
  if (!int8) {
    pages.elements = random.Bf16(shape.elements(), 1);
    return pages;
  }
  for (int64_t i = 0; i < shape.elements(); ++i) {
    pages.codes.push_back(static_cast<int8_t>(random.Below(255) - 127));
  }
  for (int64_t run = 0; run < shape.runs(); ++run) {
    pages.scales.push_back(static_cast<float>((0.5 + random.Uniform()) / 73));
  }
  return pages;
}

}  // namespace nibble::cuda::bench
