#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/batch.h"

namespace nibble {

// Puts a Batch together, one sequence at a time.
class BatchBuilder {
 public:
  // Tokens at positions first_position, first_position + 1, … of a sequence whose KV pages are
  // `blocks` (those of its earlier tokens first). Logits are wanted from tokens[first_logit] on;
  // none if that is tokens.size().
  void Add(std::span<const int32_t> tokens, int64_t first_position, std::span<const int32_t> blocks,
           int64_t first_logit);

  int64_t num_tokens() const { return batch_.num_tokens(); }

  // The batch so far; the builder is empty again.
  Batch Take();

 private:
  Batch batch_;
  std::vector<std::vector<int32_t>> blocks_;
};

}  // namespace nibble
