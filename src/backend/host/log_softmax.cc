#include "backend/host/log_softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibble {
namespace {

float Largest(std::span<const float> logits) {
  return *std::max_element(logits.begin(), logits.end());
}

// Adds a block to the total of a row whose largest entry is known.
void Fold(const LogBlock& block, double largest, double& total) {
  total += block.total * std::exp(static_cast<double>(block.largest) - largest);
}

}  // namespace

LogBlock SumLogBlock(std::span<const float> logits) {
  LogBlock block{.largest = Largest(logits), .total = 0};
  if (block.largest == -std::numeric_limits<float>::infinity()) return block;
  const double shift = static_cast<double>(block.largest);
  for (const float logit : logits) block.total += std::exp(static_cast<double>(logit) - shift);
  return block;
}

double FoldLogBlocks(std::span<const LogBlock> blocks) {
  const auto before = [](const LogBlock& a, const LogBlock& b) { return a.largest < b.largest; };
  const double largest =
      static_cast<double>(std::max_element(blocks.begin(), blocks.end(), before)->largest);
  double total = 0;
  for (const LogBlock& block : blocks) Fold(block, largest, total);
  return largest + std::log(total);
}

double LogSumExp(std::span<const float> logits) {
  const double largest = static_cast<double>(Largest(logits));
  double total = 0;
  for (size_t first = 0; first < logits.size(); first += kLogBlock) {
    Fold(SumLogBlock(logits.subspan(first, std::min<size_t>(kLogBlock, logits.size() - first))),
         largest, total);
  }
  return largest + std::log(total);
}

int32_t ArgMax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

bool RowComparison::finite() const {
  return std::isfinite(baseline_log_probability) && std::isfinite(log_probability) &&
         std::isfinite(kl);
}

RowComparison CompareRows(std::span<const float> baseline, std::span<const float> model,
                          int32_t token) {
  const double p_sum = LogSumExp(baseline);
  const double q_sum = LogSumExp(model);
  double kl = 0;
  for (size_t i = 0; i < baseline.size(); ++i) {
    const double log_p = static_cast<double>(baseline[i]) - p_sum;
    const double log_q = static_cast<double>(model[i]) - q_sum;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  const size_t id = static_cast<size_t>(token);
  return {.baseline_log_probability = static_cast<double>(baseline[id]) - p_sum,
          .log_probability = static_cast<double>(model[id]) - q_sum,
          .kl = kl < 0 ? 0 : kl,  // rounding can take a zero below itself
          .same_top = ArgMax(baseline) == ArgMax(model)};
}

}  // namespace nibble
