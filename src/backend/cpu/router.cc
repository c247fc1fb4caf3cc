#include "backend/cpu/router.h"

#include <algorithm>
#include <cmath>

namespace nibble::cpu {
namespace {

float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// The indices of the largest values, best first. Each next one is the best of those that come after
// the previous one in the order (value falling, index rising): no list of what is taken, and
// distinct indices even among NaNs.
void ChooseLargest(std::span<const float> values, std::span<int32_t> chosen) {
  const auto before = [&](size_t a, size_t b) {
    if (values[a] > values[b]) return true;
    if (values[a] < values[b]) return false;
    const bool a_nan = std::isnan(values[a]);
    const bool b_nan = std::isnan(values[b]);
    return a_nan != b_nan ? b_nan : a < b;
  };
  for (size_t i = 0; i < chosen.size(); ++i) {
    size_t best = values.size();
    for (size_t e = 0; e < values.size(); ++e) {
      if (i > 0 && !before(static_cast<size_t>(chosen[i - 1]), e)) continue;
      if (best == values.size() || before(e, best)) best = e;
    }
    chosen[i] = static_cast<int32_t>(best);
  }
}

}  // namespace

void ChooseExperts(const RouterShape& shape, std::span<const float> logits, const float* correction,
                   std::span<float> scores, std::span<int32_t> experts, std::span<float> weights) {
  const bool sigmoid = shape.score == RouterScore::kSigmoid;
  float largest = 0;
  float total = 1;
  if (!sigmoid) {
    // A NaN is never the largest, unless there is nothing else.
    largest = *std::max_element(logits.begin(), logits.end(), [](float a, float b) {
      return a < b || (std::isnan(a) && !std::isnan(b));
    });
    total = 0;
    for (const float logit : logits) total += std::exp(logit - largest);
  }
  const auto score = [&](size_t expert) {
    const float logit = logits[expert];
    return sigmoid ? Sigmoid(logit) : std::exp(logit - largest) / total;
  };
  // Without a correction a softmax orders experts as their logits do.
  std::span<const float> choices = logits;
  if (sigmoid || correction != nullptr) {
    for (size_t e = 0; e < logits.size(); ++e) {
      scores[e] = score(e) + (correction != nullptr ? correction[e] : 0.0f);
    }
    choices = scores;
  }
  ChooseLargest(choices, experts);

  float sum = 0;
  for (size_t i = 0; i < experts.size(); ++i) {
    weights[i] = score(static_cast<size_t>(experts[i]));
    sum += weights[i];
  }
  for (float& weight : weights) {
    if (shape.renormalise) weight /= sum;
    if (shape.scale != 1) weight *= shape.scale;
  }
}

}  // namespace nibble::cpu
