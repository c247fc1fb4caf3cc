#pragma once

#include <cstdint>
#include <span>

namespace nibble {

// The one definition of log-softmax in the program. A row of logits is cut into blocks of
// kLogBlock entries, the last one shorter; each has its largest entry m and its total
// t = Σ exp(logit - m), added in order in double. The row's sum is M + ln Σ t exp(m - M) over the
// blocks in order, M being the largest m. So blocks may be computed in different places and two
// numbers of each tell the whole: ranks that share a vocabulary keep every bit.
inline constexpr int64_t kLogBlock = 1024;

struct LogBlock {
  float largest = 0;
  double total = 0;
};
LogBlock SumLogBlock(std::span<const float> logits);  // of at most kLogBlock entries
double FoldLogBlocks(std::span<const LogBlock> blocks);

// ln Σ exp(logit): the two above over a whole row. Not finite if some logit is NaN or +infinity, or
// all are -infinity.
double LogSumExp(std::span<const float> logits);

// The index of the largest entry; a tie goes to the lowest.
int32_t ArgMax(std::span<const float> logits);

// How the predictions of a model differ from those of a baseline for one token.
struct RowComparison {
  double baseline_log_probability = 0;  // of `token`, nats
  double log_probability = 0;
  double kl = 0;  // KL(baseline || model), nats
  bool same_top = false;

  bool finite() const;
};
RowComparison CompareRows(std::span<const float> baseline, std::span<const float> model,
                          int32_t token);

}  // namespace nibble
