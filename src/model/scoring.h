#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/mixtral.h"

namespace nibble {

// Packs whole sequences (each starting at position 0, with KV pages of their own) into one batch;
// used wherever text is scored rather than generated. Block b of the pool is used once.
Batch MakePrefillBatch(std::span<const std::vector<int32_t>> sequences, int64_t block_size);

// Log-softmax figures of one predicted token.
struct TokenScore {
  double log_probability = 0;  // of the actual next token, nats
  bool is_greedy = false;      // it is the most probable one (ties: the lowest id)
};

// Scores tokens [1, n) of each sequence given those before them; results per sequence, n - 1 each.
// Sequences are processed in micro-batches of at most model.max_tokens() tokens.
std::vector<std::vector<TokenScore>> ScoreSequences(
    Mixtral& model, std::span<const std::vector<int32_t>> sequences,
    const std::function<void(int64_t tokens_done)>& progress = nullptr);

struct Perplexity {
  double nll = 0;      // nats, summed over `tokens`
  int64_t tokens = 0;  // predicted tokens
  double perplexity() const;
};

// Cuts `ids` (no special tokens) into windows: each is BOS and then window - 1 ids, `stride` new
// ids a window (0: window - 1, no overlap); every id is predicted once, in the window where it has
// the most context.
std::vector<std::vector<int32_t>> MakeWindows(std::span<const int32_t> ids, int32_t bos,
                                              int64_t window, int64_t stride,
                                              std::vector<int64_t>* first_scored);

}  // namespace nibble
