#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/routing.h"
#include "backend/shapes.h"

namespace nibble {

// What the router decided about all calibration tokens of a layer: how many each expert got, and
// what else is asked for.
class RouterCensus {
 public:
  struct Keep {
    bool choices = false;        // for Choices; 8 bytes for each of top_k
    bool probabilities = false;  // for TopUp; 4 bytes an expert
  };

  RouterCensus(const RouterShape& shape, int64_t num_tokens, Keep keep);

  static int64_t SizeBytes(const RouterShape& shape, int64_t num_tokens, Keep keep);

  // The routing of a step, whose tokens begin at `first_token`.
  void Add(const RoutingTable& routing, int64_t first_token);

  std::span<const int64_t> tokens_per_expert() const { return counts_; }

  // What was added about tokens [first_token, first_token + count): experts and weights; no logits
  // and no slots.
  void Choices(int64_t first_token, int64_t count, RoutingTable& routing) const;

  // For each expert with fewer than `target` tokens, as many unrouted tokens as it lacks: those
  // with the highest router probability for it (ties: the earlier token).
  std::vector<std::vector<int32_t>> TopUp(int64_t target) const;

 private:
  int64_t num_tokens_;
  int64_t num_experts_;
  int64_t top_k_;
  std::vector<int64_t> counts_;
  std::vector<int32_t> experts_;      // [tokens, top_k]
  std::vector<float> weights_;        // [tokens, top_k]
  std::vector<float> probabilities_;  // [tokens, experts]; -1 where routed
};

}  // namespace nibble
