#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include "backend/make_backend.h"
#include "nibble/error.h"

namespace nibble {
namespace {

TEST(KvCache, LaysTheLayersOutOneAfterAnother) {
  const auto backend = MakeBackend("reference");
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    const KvCache cache(*backend, 3, 5, 4, 2, 6, dtype);
    const int64_t token_bytes = dtype == DType::kI8 ? 16 + 4 : 6 * DTypeSize(dtype);
    const int64_t layer_bytes = 5 * (2 * 2 * 4) * token_bytes;
    EXPECT_EQ(cache.size_bytes(), 3 * layer_bytes);
    const auto* first = static_cast<const std::byte*>(cache.layer(0).data);
    for (int64_t layer = 0; layer < 3; ++layer) {
      const KvPages pages = cache.layer(layer);
      EXPECT_EQ(static_cast<const std::byte*>(pages.data) - first, layer * layer_bytes);
      EXPECT_EQ(pages.num_blocks, 5);
      EXPECT_EQ(pages.block_size, 4);
      EXPECT_EQ(pages.num_kv_heads, 2);
      EXPECT_EQ(pages.head_dim, 6);
      EXPECT_EQ(pages.dtype, dtype);
    }
  }
}

TEST(KvCache, RefusesHeadsTooLargeForInt8) {
  const auto backend = MakeBackend("reference");
  EXPECT_NO_THROW(KvCache(*backend, 1, 1, 16, 1, 512, DType::kI8));
  EXPECT_THROW(KvCache(*backend, 1, 1, 16, 1, 514, DType::kI8), Error);
}

TEST(KvCache, BlocksForRoundsUp) {
  EXPECT_EQ(BlocksFor(0, 16), 0);
  EXPECT_EQ(BlocksFor(1, 16), 1);
  EXPECT_EQ(BlocksFor(16, 16), 1);
  EXPECT_EQ(BlocksFor(17, 16), 2);
}

}  // namespace
}  // namespace nibble
