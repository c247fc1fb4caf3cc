#pragma once

#include <cstdint>
#include <span>

namespace nibble::cpu {

// The experts with the largest logits, best first, a tie going to the lower index, and their
// softmax weights: softmax over all logits, then divided by the sum of the chosen. experts.size()
// == weights.size() <= logits.size(). NaN counts as the smallest logit.
void ChooseExperts(std::span<const float> logits, std::span<int32_t> experts,
                   std::span<float> weights);

}  // namespace nibble::cpu
