#pragma once

#include <cstdint>
#include <vector>

#include "backend/routing.h"

namespace nibble {

// The tokens whose inputs enter an expert's Hessians. The output of a layer is always that of the
// routed tokens alone.
enum class ExpertTokens {
  kRouted,
  kToppedUp,  // --top-up-experts: where there are few, also unrouted ones that came close
  kAll,       // --calibrate-all-experts
};

// The same for the experts of a layer at hand.
struct ExpertSelection {
  bool all_tokens = false;
  // Further tokens of each expert, by index among all calibration tokens, increasing. Empty, or one
  // list an expert.
  std::vector<std::vector<int32_t>> extra_tokens = {};
};

// Fills `slots` with the slots of experts [first, last) for a step whose tokens were routed as in
// `routing` (its experts and weights; not its slots) and begin at `first_token` of the calibration
// set.
void SelectSlots(const RoutingTable& routing, int64_t first_token, const ExpertSelection& selection,
                 int64_t first, int64_t last, RoutingTable& slots);

}  // namespace nibble
