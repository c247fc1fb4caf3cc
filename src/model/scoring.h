#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/mixtral.h"

namespace nibble {

// Packs whole sequences (each starting at position 0, with KV pages of their own) into one batch;
// used wherever text is scored rather than generated. Block b of the pool is used once, from 0
// upwards; no logits are asked for.
Batch MakePrefillBatch(std::span<const std::vector<int32_t>> sequences, int64_t block_size);

// Log-softmax figures of one predicted token.
struct TokenScore {
  double log_probability = 0;  // of the actual next token, nats
  bool is_greedy = false;      // it is the most probable one (ties: the lowest id)
};

// Told how many more tokens were run.
using ScoringProgress = std::function<void(int64_t tokens)>;

// Scores tokens [first_scored[i], n) of each sequence given those before them; without
// `first_scored`, tokens [1, n). Results per sequence, in order. Short sequences share steps of at
// most model.max_tokens() tokens, longer ones are run alone in several; results do not depend on
// how. Throws kInvalidArgument naming the sequence if it is empty or longer than the model's
// positions.
std::vector<std::vector<TokenScore>> ScoreSequences(Mixtral& model,
                                                    std::span<const std::vector<int32_t>> sequences,
                                                    const ScoringProgress& progress = nullptr,
                                                    std::span<const int64_t> first_scored = {},
                                                    DType kv_dtype = DType::kF32);

// How a model's predictions differ from those of a baseline, over the same tokens. Standard errors
// take tokens as independent.
struct Comparison {
  int64_t tokens = 0;
  double baseline_nll = 0;  // nats, summed
  double nll = 0;
  double mean_kl = 0;  // KL(baseline || model) per token, nats
  double kl_standard_error = 0;
  double median_kl = 0;
  double kl_99 = 0;  // 99th percentile
  double max_kl = 0;
  double top1_agreement = 0;  // share of tokens where both find the same id most probable
  double top1_standard_error = 0;
  double log_ratio = 0;  // ln(perplexity / baseline perplexity)
  double log_ratio_standard_error = 0;
};

// Both models must have the same vocabulary (kInvalidArgument); they may be on different backends.
// `kv_dtype` is that of the model's cache; the baseline keeps its own in float.
Comparison CompareSequences(Mixtral& baseline, Mixtral& model,
                            std::span<const std::vector<int32_t>> sequences,
                            const ScoringProgress& progress = nullptr,
                            std::span<const int64_t> first_scored = {},
                            DType kv_dtype = DType::kF32);

// All logits [n, vocab] of one sequence of n tokens, in runs as LogitVisitor has them (`first`
// counts tokens). Run in steps of at most model.max_tokens().
void SequenceLogits(Mixtral& model, std::span<const int32_t> sequence, const LogitVisitor& visit,
                    DType kv_dtype = DType::kF32);

struct Perplexity {
  double nll = 0;             // nats, summed over `tokens`
  double standard_error = 0;  // of the perplexity
  int64_t tokens = 0;         // predicted tokens

  double perplexity() const;
};

Perplexity Summarize(std::span<const std::vector<TokenScore>> scores);

// Cuts `ids` (no special tokens) into windows: each is BOS and then up to window - 1 ids, `stride`
// new ids a window (0: window - 1, no overlap); every id is predicted once, in the window where it
// has the most context. first_scored[w] is the index in window w of its first id that no earlier
// window predicts. With bos < 0 a window is `window` ids, and the very first id of the text is only
// context. Throws kInvalidArgument naming window or stride, or for an empty text.
std::vector<std::vector<int32_t>> MakeWindows(std::span<const int32_t> ids, int32_t bos,
                                              int64_t window, int64_t stride,
                                              std::vector<int64_t>* first_scored);

}  // namespace nibble
