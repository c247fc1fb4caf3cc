#pragma once

#include <cstdint>
#include <span>

#include "backend/shapes.h"

namespace nibble::cpu {

// The experts of one token and their weights, as RouterShape says, best first.
//   logits      [num_experts]; NaN counts as the smallest
//   correction  [num_experts], or null
//   scores      [num_experts], scratch
//   experts, weights  [top_k]
void ChooseExperts(const RouterShape& shape, std::span<const float> logits, const float* correction,
                   std::span<float> scores, std::span<int32_t> experts, std::span<float> weights);

}  // namespace nibble::cpu
