#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/routing.h"

namespace nibble {

// The tokens whose inputs enter an expert's Hessians. The output of a layer is always that of the
// routed tokens alone.
struct ExpertSelection {
  bool all_tokens = false;  // QuantizeOptions::calibrate_all_experts
  // With top_up_experts: further tokens of each expert, by index among all calibration tokens,
  // increasing. Empty, or one list an expert.
  std::vector<std::vector<int32_t>> extra_tokens;
};

// Fills `slots` with the slots of experts [first, last) for a step whose tokens were routed as in
// `routing` and begin at `first_token` of the calibration set.
void SelectSlots(const RoutingTable& routing, int64_t first_token, const ExpertSelection& selection,
                 int64_t first, int64_t last, RoutingTable& slots);

// Collects the router's decisions for all calibration tokens of a layer: counts, and with
// keep_probabilities the probabilities.
class RouterCensus {
 public:
  // `keep_probabilities`: for TopUp; 4 bytes a token and expert.
  RouterCensus(int64_t num_tokens, int64_t num_experts, bool keep_probabilities);

  void Add(const RoutingTable& routing, int64_t first_token);

  std::span<const int64_t> tokens_per_expert() const { return counts_; }

  // For each expert with fewer than `target` tokens, as many unrouted tokens as it lacks: those
  // with the highest router probability for it (ties: the earlier token).
  std::vector<std::vector<int32_t>> TopUp(int64_t target) const;

 private:
  int64_t num_tokens_;
  int64_t num_experts_;
  std::vector<int64_t> counts_;
  std::vector<float> probabilities_;  // [tokens, experts]; -1 where routed
};

}  // namespace nibble
