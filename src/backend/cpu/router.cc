#include "backend/cpu/router.h"

#include <algorithm>
#include <cmath>

namespace nibble::cpu {

void ChooseExperts(std::span<const float> logits, std::span<int32_t> experts,
                   std::span<float> weights) {
  // Each next expert is the best of those that come after the previous one in the order (logit
  // falling, index rising): no list of what is taken, and distinct experts even among NaNs.
  const auto before = [&](size_t a, size_t b) {
    if (logits[a] > logits[b]) return true;
    if (logits[a] < logits[b]) return false;
    const bool a_nan = std::isnan(logits[a]);
    const bool b_nan = std::isnan(logits[b]);
    return a_nan != b_nan ? b_nan : a < b;
  };
  for (size_t i = 0; i < experts.size(); ++i) {
    size_t best = logits.size();
    for (size_t e = 0; e < logits.size(); ++e) {
      if (i > 0 && !before(static_cast<size_t>(experts[i - 1]), e)) continue;
      if (best == logits.size() || before(e, best)) best = e;
    }
    experts[i] = static_cast<int32_t>(best);
  }

  const float largest = logits[static_cast<size_t>(experts[0])];
  float total = 0;
  for (const float logit : logits) total += std::exp(logit - largest);
  float chosen = 0;
  for (size_t i = 0; i < experts.size(); ++i) {
    weights[i] = std::exp(logits[static_cast<size_t>(experts[i])] - largest) / total;
    chosen += weights[i];
  }
  for (float& weight : weights) weight /= chosen;
}

}  // namespace nibble::cpu
