#include "quantize/passes/token_batches.h"

#include <algorithm>
#include <numeric>

#include "backend/kv_pages.h"
#include "model/batch_builder.h"

namespace nibble {

TokenBatches CutIntoBatches(std::span<const std::vector<int32_t>> sequences, int64_t max_tokens) {
  TokenBatches result;
  result.max_tokens = max_tokens;
  BatchBuilder builder;
  int64_t blocks_used = 0;
  const auto close = [&] {
    if (builder.num_tokens() == 0) return;
    result.num_blocks = std::max(result.num_blocks, blocks_used);
    const int64_t count = builder.num_tokens();
    result.batches.push_back({builder.Take(), result.num_tokens});
    result.num_tokens += count;
    blocks_used = 0;
  };
  for (const std::vector<int32_t>& sequence : sequences) {
    const int64_t length = static_cast<int64_t>(sequence.size());
    if (builder.num_tokens() + length > max_tokens) close();
    std::vector<int32_t> blocks(BlocksFor(length));
    std::iota(blocks.begin(), blocks.end(), static_cast<int32_t>(blocks_used));
    for (int64_t first = 0; first < length; first += max_tokens) {
      const int64_t count = std::min(max_tokens, length - first);
      if (first > 0) close();
      builder.Add(std::span(sequence).subspan(first, count), first,
                  std::span(blocks).first(BlocksFor(first + count)), count);
      blocks_used = std::max(blocks_used, static_cast<int64_t>(blocks.back()) + 1);
    }
    // A sequence that spans steps keeps its KV blocks until its last step.
    if (length > max_tokens) close();
  }
  close();
  return result;
}

int64_t BatchTokens(const ModelConfig& config) {
  constexpr int64_t kMiddleBytes = int64_t{256} << 20;
  const int64_t bytes_per_token = 4 * config.num_experts_per_token * config.intermediate_size;
  return std::clamp(kMiddleBytes / bytes_per_token / 256 * 256, int64_t{512}, int64_t{4096});
}

std::vector<std::vector<int32_t>> FirstTokens(std::span<const std::vector<int32_t>> sequences,
                                              int64_t max_tokens) {
  std::vector<std::vector<int32_t>> first;
  for (const std::vector<int32_t>& sequence : sequences) {
    if (max_tokens < 2) break;  // one token predicts nothing
    const int64_t count = std::min(max_tokens, static_cast<int64_t>(sequence.size()));
    first.emplace_back(sequence.begin(), sequence.begin() + count);
    max_tokens -= count;
  }
  return first;
}

}  // namespace nibble
