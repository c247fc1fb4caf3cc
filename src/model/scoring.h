#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/model.h"

namespace nibble {

// A sequence and the part of it that is predicted: tokens [first_scored, n), given those before
// them. first_scored is at least 1.
struct ScoredSequence {
  std::vector<int32_t> tokens;
  int64_t first_scored = 1;
};

// How well a model predicted one token.
struct TokenPrediction {
  double log_probability = 0;  // of the actual next token, nats
  bool is_greedy = false;      // it is the most probable one (ties: the lowest id)
};

// Told how many more tokens were run.
using ScoringProgress = std::function<void(int64_t tokens)>;

// Predictions per sequence, in order. Short sequences share steps of at most model.max_tokens()
// tokens, longer ones are run alone in several; results do not depend on how. Throws
// kInvalidArgument naming the sequence if it is empty or longer than the model's positions, and
// kInvalidData naming the layer where a prediction is not finite.
std::vector<std::vector<TokenPrediction>> ScoreSequences(Model& model,
                                                         std::span<const ScoredSequence> sequences,
                                                         const ScoringProgress& progress = nullptr,
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
Comparison CompareSequences(Model& baseline, Model& model,
                            std::span<const ScoredSequence> sequences,
                            const ScoringProgress& progress = nullptr,
                            DType kv_dtype = DType::kF32);

// Receives logits [n, vocab] of consecutive tokens of a sequence, the first of which is `first`.
using SequenceLogitVisitor = std::function<void(int64_t first, std::span<const float> logits)>;

// All logits of one sequence, a few MiB at a time, run in steps of at most model.max_tokens(). A
// logit that is not finite throws kInvalidData naming the layer.
void SequenceLogits(Model& model, std::span<const int32_t> sequence,
                    const SequenceLogitVisitor& visit, DType kv_dtype = DType::kF32);

struct Perplexity {
  double nll = 0;             // nats, summed over `tokens`
  double standard_error = 0;  // of the perplexity
  int64_t tokens = 0;         // predicted tokens

  double perplexity() const;
};

Perplexity PerplexityOf(std::span<const std::vector<TokenPrediction>> predictions);

// Cuts `ids` (no special tokens) into windows: each is BOS and then up to window - 1 ids, `stride`
// new ids a window (0: window - 1, no overlap); every id is predicted once, in the window where it
// has the most context. With bos < 0 a window is `window` ids, and the very first id of the text is
// only context. Throws kInvalidArgument naming window or stride, or for an empty text.
std::vector<ScoredSequence> MakeWindows(std::span<const int32_t> ids, int32_t bos, int64_t window,
                                        int64_t stride);

}  // namespace nibble
