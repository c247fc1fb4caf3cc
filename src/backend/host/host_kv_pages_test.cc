#include "backend/host/host_kv_pages.h"

#include <gtest/gtest.h>

#include "nibble/error.h"

namespace nibble {
namespace {

TEST(HostKvPages, LaysTheLayersOutOneAfterAnother) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    const KvShape shape{
        .num_layers = 3, .num_kv_heads = 2, .head_dim = 6, .block_size = 4, .dtype = dtype};
    const HostKvPages pages(shape, 5);
    const int64_t token_bytes = dtype == DType::kI8 ? 16 + 4 : 6 * DTypeSize(dtype);
    const int64_t layer_bytes = 5 * (2 * 2 * 4) * token_bytes;
    EXPECT_EQ(pages.size_bytes(), 3 * layer_bytes);
    EXPECT_EQ(HostKvPages::BlockBytes(shape), 3 * layer_bytes / 5);
    for (int64_t index = 0; index < 3; ++index) {
      const HostKvLayer layer = pages.layer(index);
      EXPECT_EQ(static_cast<const std::byte*>(layer.data),
                static_cast<const std::byte*>(pages.data()) + index * layer_bytes);
      EXPECT_EQ(layer.num_blocks, 5);
      EXPECT_EQ(layer.block_size, 4);
      EXPECT_EQ(layer.num_kv_heads, 2);
      EXPECT_EQ(layer.head_dim, 6);
      EXPECT_EQ(layer.dtype, dtype);
    }
  }
}

TEST(HostKvPages, RefusesHeadsTooLargeForInt8) {
  KvShape shape{.num_layers = 1, .num_kv_heads = 1, .head_dim = 512, .dtype = DType::kI8};
  EXPECT_NO_THROW(HostKvPages(shape, 1));
  shape.head_dim = 514;
  EXPECT_THROW(HostKvPages(shape, 1), Error);
}

TEST(KvPages, BlocksForRoundsUp) {
  EXPECT_EQ(BlocksFor(0, 16), 0);
  EXPECT_EQ(BlocksFor(1, 16), 1);
  EXPECT_EQ(BlocksFor(16, 16), 1);
  EXPECT_EQ(BlocksFor(17, 16), 2);
}

}  // namespace
}  // namespace nibble
