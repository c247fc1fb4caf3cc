#include "backend/cuda/pages.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace nibble::cuda {
namespace {

TEST(Pages, EveryKeyAndValueHasARunOfItsOwn) {
  const PageShape shape{.num_pages = 3, .page_tokens = 5, .kv_heads = 2, .head_dim = 8};
  std::set<int64_t> starts;
  for (int64_t page = 0; page < shape.num_pages; ++page) {
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      for (int32_t slot = 0; slot < shape.page_tokens; ++slot) {
        starts.insert(shape.KeyOffset(page, head, slot));
        starts.insert(shape.ValueOffset(page, head, slot));
      }
    }
  }
  EXPECT_EQ(static_cast<int64_t>(starts.size()), shape.runs());
  EXPECT_EQ(shape.runs() * shape.head_dim, shape.elements());
  for (const int64_t start : starts) EXPECT_EQ(start % shape.head_dim, 0);
  EXPECT_EQ(*starts.begin(), 0);
  EXPECT_EQ(*starts.rbegin() + shape.head_dim, shape.elements());
}

TEST(Pages, OffsetsOfTheWholeCacheFitSixtyFourBits) {
  // 64 GB of pages in one layer: element indices exceed 32 bits.
  const PageShape shape{.num_pages = 1 << 20, .page_tokens = 64, .kv_heads = 8, .head_dim = 128};
  EXPECT_EQ(shape.KeyOffset((1 << 20) - 1, 0, 0), int64_t{(1 << 20) - 1} * 2 * 8 * 64 * 128);
}

TEST(Pages, TablesLeadEachPositionOfEachSequenceToADifferentPlace) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 50; ++trial) {
    const auto sequences = static_cast<int32_t>(random() % 4 + 1);
    const auto max_pages = static_cast<int32_t>(random() % 6 + 1);
    const auto page_tokens = static_cast<int32_t>(random() % 70 + 1);
    std::vector<int32_t> pages(static_cast<size_t>(sequences * max_pages));
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    std::shuffle(pages.begin(), pages.end(), random);
    const PageTable table{.pages = pages.data(), .max_pages = max_pages};
    std::set<std::pair<int64_t, int32_t>> places;
    for (int32_t s = 0; s < sequences; ++s) {
      for (int32_t p = 0; p < max_pages * page_tokens; ++p) {
        EXPECT_TRUE(places.insert({table.PageOf(s, p, page_tokens), p % page_tokens}).second);
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
