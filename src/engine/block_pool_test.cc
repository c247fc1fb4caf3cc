#include "engine/block_pool.h"

#include <gtest/gtest.h>

#include <set>

#include "base/random.h"

namespace nibble {
namespace {

TEST(BlockPool, HandsOutEachBlockOnceAndThenNone) {
  BlockPool pool(3);
  std::set<int32_t> blocks;
  for (int i = 0; i < 3; ++i) blocks.insert(pool.Allocate().value());
  EXPECT_EQ(blocks, (std::set<int32_t>{0, 1, 2}));
  EXPECT_FALSE(pool.Allocate().has_value());
}

TEST(BlockPool, FreesSharedBlockOnlyWithLastHolder) {
  BlockPool pool(1);
  const int32_t block = pool.Allocate().value();
  pool.Share(block);
  pool.Release(block);
  EXPECT_EQ(pool.num_free(), 0);
  pool.Release(block);
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(BlockPoolDeathTest, CatchesABlockFreedTwice) {
  BlockPool pool(1);
  const int32_t block = pool.Allocate().value();
  pool.Release(block);
  EXPECT_DEATH(pool.Release(block), "check failed");
}

TEST(BlockPool, FreeAndHeldAlwaysMakeUpThePool) {
  BlockPool pool(17);
  std::vector<int32_t> held;  // a block appears once a holder
  PythonRandom random(1);
  for (int step = 0; step < 5000; ++step) {
    const uint64_t action = random.NextBelow(3);
    if (action == 0) {
      if (const auto block = pool.Allocate()) held.push_back(*block);
    } else if (!held.empty()) {
      const size_t at = static_cast<size_t>(random.NextBelow(held.size()));
      if (action == 1 && held.size() < 60) {
        pool.Share(held[at]);
        held.push_back(held[at]);
      } else {
        pool.Release(held[at]);
        held.erase(held.begin() + static_cast<int64_t>(at));
      }
    }
    ASSERT_EQ(pool.num_free() + static_cast<int64_t>(std::set(held.begin(), held.end()).size()),
              17);
  }
}

}  // namespace
}  // namespace nibble
