#pragma once

#include <cstdint>
#include <vector>

namespace nibble {

// What the ops of a layer compute, as plain values: made once when a model is loaded. Where a model
// is split over ranks, the counts are this rank's share.

// Rotary embedding: element i of a head forms a pair with element i + D / 2, where D = 2 *
// inverse_frequencies.size() is at most head_dim; what lies behind D is not rotated.
struct Rotary {
  std::vector<float> inverse_frequencies = {};  // [D / 2]
  float factor = 1;                             // of every cosine and sine
};

struct AttentionShape {
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 0;             // of scores; 0: 1 / sqrt(head_dim)
  int64_t sliding_window = 0;  // a token sees the last so many tokens, itself included; 0: all
  float norm_eps = 1e-5f;      // of every norm on the way: input, queries, keys
  Rotary rotary = {};
};

// How a router's logits become a score for each expert.
enum class RouterScore { kSoftmax, kSigmoid };

// The top_k experts of a token are those with the largest score (plus correction, if there is one;
// a tie goes to the lower index). Their weights are their scores without the correction, divided by
// their sum if `renormalise`, times `scale`. With num_experts == 0 the layer is dense: one expert
// that sees every token with weight 1.
struct RouterShape {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  RouterScore score = RouterScore::kSoftmax;
  bool renormalise = true;
  float scale = 1;
  float norm_eps = 1e-5f;

  bool dense() const { return num_experts == 0; }
  int64_t num_groups() const { return dense() ? 1 : num_experts; }  // of slots in a routing
  int64_t slots_per_token() const { return dense() ? 1 : top_k; }
};

}  // namespace nibble
