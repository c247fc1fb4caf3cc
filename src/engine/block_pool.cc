#include "engine/block_pool.h"

#include "base/check.h"

namespace nibble {

BlockPool::BlockPool(int64_t num_blocks) : holders_(static_cast<size_t>(num_blocks), 0) {
  for (int64_t block = num_blocks - 1; block >= 0; --block)
    free_.push_back(static_cast<int32_t>(block));
}

std::optional<int32_t> BlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  const int32_t block = free_.back();
  free_.pop_back();
  NIBBLE_DCHECK(holders(block) == 0);
  holders_[block] = 1;
  return block;
}

void BlockPool::Share(int32_t block) {
  NIBBLE_CHECK(holders(block) > 0);
  ++holders_[block];
}

void BlockPool::Release(int32_t block) {
  NIBBLE_CHECK(holders(block) > 0);
  if (--holders_[block] == 0) free_.push_back(block);
}

}  // namespace nibble
