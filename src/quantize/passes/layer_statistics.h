#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nibble/error.h"
#include "quantize/gptq/hessian.h"
#include "quantize/passes/activation_stream.h"
#include "quantize/passes/router_census.h"
#include "quantize/passes/slot_selection.h"

namespace nibble {

struct AttentionHessians {
  Hessian input;   // what q, k and v read
  Hessian output;  // what o reads
};

struct ExpertHessians {
  Hessian input;   // what w1 and w3 read
  Hessian middle;  // what w2 reads
};

// Activations of a calibration token are not finite (kInvalidData). The caller adds the layer and
// the origin of the token with WithContext.
class NonFiniteActivations : public Error {
 public:
  // `where`: "the input of attention".
  NonFiniteActivations(const std::string& where, int64_t token);

  int64_t token() const { return token_; }  // index among all calibration tokens

 private:
  int64_t token_;
};

// Gathers the Hessians of one layer by running its unquantized weights over the calibration tokens:
// in one pass, or in one for attention and router and one more for each group of experts. Both give
// the same bits: the sums depend only on the tokens' order and their division into batches, not on
// the number of experts or threads that run at a time.
//
// `hidden` are the layer's inputs. All three throw NonFiniteActivations.
class LayerStatistics {
 public:
  // Borrows the stream, which runs all calibration tokens.
  explicit LayerStatistics(ActivationStream& stream);

  // One pass through everything but the experts' down weights. experts[e] is expert e's.
  void GatherLayer(const LayerSpec& layer, const LayerWeights& weights, const HiddenStates& hidden,
                   const ExpertSelection& selection, AttentionHessians& attention,
                   RouterCensus& census, std::vector<ExpertHessians>& experts);

  // One pass through attention and router; `expert_input` is filled for GatherExperts.
  void GatherAttention(const LayerSpec& layer, const LayerWeights& weights,
                       const HiddenStates& hidden, AttentionHessians& attention,
                       RouterCensus& census, HiddenStates& expert_input);

  // One pass through the gate and up weights of experts [first, first + experts.size()), which
  // must be there; experts[0] is expert `first`'s. The census has kept the router's choices.
  void GatherExperts(const LayerSpec& layer, const LayerWeights& weights,
                     const HiddenStates& expert_input, const RouterCensus& census,
                     const ExpertSelection& selection, int64_t first,
                     std::vector<ExpertHessians>& experts);

 private:
  void Route(const LayerSpec& layer, const LayerWeights& weights, const TokenBatch& batch,
             RouterCensus& census);
  void AddExperts(const LayerSpec& layer, const LayerWeights& weights, const TokenBatch& batch,
                  const ExpertSelection& selection, int64_t first,
                  std::vector<ExpertHessians>& experts);

  ActivationStream* stream_;
  Backend* backend_;
  Workspace* workspace_;
  DecoderLayer layer_;
  RoutingTable routed_;  // the router's choices for the step at hand
  RoutingTable slots_;   // those that run at once
};

}  // namespace nibble
