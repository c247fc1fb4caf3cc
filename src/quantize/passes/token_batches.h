#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/batch.h"
#include "checkpoint/model_config.h"

namespace nibble {

// A step over consecutive calibration tokens: rows [first_token, first_token + batch.num_tokens())
// of the activations.
struct TokenBatch {
  Batch batch;
  int64_t first_token = 0;
};

// The calibration tokens cut into steps, the same for every layer, thread count and memory budget:
// sums over tokens are done in this order. Whole sequences share a step; one longer than
// `max_tokens` has steps of its own, which must run in order, since the later ones attend to KV
// blocks written by the earlier.
struct TokenBatches {
  std::vector<TokenBatch> batches;
  int64_t num_tokens = 0;
  int64_t max_tokens = 0;  // of a step
  int64_t num_blocks = 0;  // maximum number of KV blocks of a step
};

TokenBatches CutIntoBatches(std::span<const std::vector<int32_t>> sequences, int64_t max_tokens);

// Tokens of a step for a model of this shape: enough for efficient matrix products, few enough that
// the activations between w1, w3 and w2 stay small beside a layer.
int64_t BatchTokens(const ModelConfig& config);

// The first `max_tokens` tokens, as sequences; the last may be cut.
std::vector<std::vector<int32_t>> FirstTokens(std::span<const std::vector<int32_t>> sequences,
                                              int64_t max_tokens);

}  // namespace nibble
