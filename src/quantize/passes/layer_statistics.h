#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quantize/gptq/hessian.h"
#include "quantize/passes/activation_stream.h"
#include "quantize/passes/expert_slots.h"

namespace nibble {

struct AttentionHessians {
  Hessian input;   // what q, k and v read
  Hessian output;  // what o reads
};

struct ExpertHessians {
  Hessian input;   // what w1 and w3 read
  Hessian middle;  // what w2 reads
};

// Gathers the Hessians of one layer by running its unquantized weights over the calibration tokens.
// The sums depend only on the tokens' order and their division into batches: not on how many
// experts run at a time, nor on threads.
class LayerStatistics {
 public:
  // `describe_token` names the origin of a calibration token, for errors about its activations.
  LayerStatistics(const ModelSpec& spec, Backend& backend, ActivationStream& stream,
                  Workspace& workspace, std::function<std::string(int64_t)> describe_token);

  // One pass through attention and router. `hidden` holds the layer's inputs. With `middle`, the
  // residual stream between attention and experts is kept there for RunExperts. With `experts`,
  // statistics of all experts are gathered in the same pass. Throws kInvalidData naming the layer
  // and the token whose activations are not finite.
  void RunAttention(int64_t layer, const LayerWeights& weights, const HiddenStates& hidden,
                    HiddenStates* middle, AttentionHessians& attention, RouterCensus& census,
                    const ExpertSelection& selection, std::vector<ExpertHessians>* experts);

  // One pass through w1 and w3 of experts [first, last), whose weights must be there; hessians[0]
  // is expert `first`'s.
  void RunExperts(int64_t layer, const LayerWeights& weights, const HiddenStates& middle,
                  const ExpertSelection& selection, int64_t first, int64_t last,
                  std::vector<ExpertHessians>& hessians);

 private:
  void AddExperts(int64_t layer, const LayerWeights& weights, const TokenBatch& batch,
                  const ExpertSelection& selection, int64_t first, int64_t last,
                  std::vector<ExpertHessians>& hessians);
  void AddSlots(int64_t first, int64_t last, std::vector<ExpertHessians>& hessians,
                int64_t hessians_first);
  // Throws about the first row of `x` that is not finite; slot_tokens maps rows to tokens, if any.
  [[noreturn]] void ThrowNonFinite(int64_t layer, const std::string& where, const Activation& x,
                                   const std::vector<int32_t>* slot_tokens,
                                   int64_t first_token) const;

  const ModelSpec* spec_;
  Backend* backend_;
  ActivationStream* stream_;
  Workspace* workspace_;
  std::function<std::string(int64_t)> describe_token_;
  DecoderLayer layer_;
  RoutingTable routed_;  // what the router said about the step at hand
  RoutingTable slots_;   // those that are run at once
};

}  // namespace nibble
