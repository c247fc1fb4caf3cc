#pragma once

#include <cstdint>
#include <vector>

namespace nibble {

// Which experts run on which tokens, on the device: the router op fills it and the expert ops read
// it, without a copy on the host.
class Routing {
 public:
  Routing() = default;
  virtual ~Routing() = default;
  Routing(const Routing&) = delete;
  Routing& operator=(const Routing&) = delete;
};

// The host's copy of a Routing, which a caller may also build itself: calibration runs chosen
// experts over chosen tokens. Serving never needs one.
//
// A slot is one (token, expert) pair; slots are grouped by expert, tokens increasing inside an
// expert.
struct RoutingTable {
  int64_t num_tokens = 0;
  int64_t num_experts = 0;
  int64_t top_k = 0;
  std::vector<int32_t> experts;  // [num_tokens, top_k], best first; a tie goes to the lower index
  std::vector<float> weights;    // [num_tokens, top_k]; they need not sum to 1
  std::vector<float> logits;     // [num_tokens, num_experts]
  std::vector<int32_t> expert_starts;  // [num_experts + 1]: slots of expert e: from [e] to [e + 1]
  std::vector<int32_t> slot_tokens;    // [num_slots]
  std::vector<float> slot_weights;     // [num_slots]

  int64_t num_slots() const { return static_cast<int64_t>(slot_tokens.size()); }

  // Fills the slot arrays from experts and weights, for the experts in [first, last) only.
  void GroupByExpert(int64_t first, int64_t last);

  // One expert, and every token a slot of it with weight 1: a dense layer.
  void SelectAll(int64_t tokens);
};

}  // namespace nibble
