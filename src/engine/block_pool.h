#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace nibble {

// Bookkeeping of KV blocks: the free ones, and a reference count for each of the others. Invariant:
// free + held = all; a block is freed with its last holder. One thread.
class BlockPool {
 public:
  explicit BlockPool(int64_t num_blocks);

  std::optional<int32_t> Allocate();  // with one holder; nullopt: none is free
  void Share(int32_t block);          // one holder more
  void Release(int32_t block);        // one fewer

  int64_t num_blocks() const { return static_cast<int64_t>(holders_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int32_t holders(int32_t block) const { return holders_[block]; }

 private:
  std::vector<int32_t> free_;  // the last is handed out next
  std::vector<int32_t> holders_;
};

}  // namespace nibble
