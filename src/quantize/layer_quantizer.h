#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "nibble/quantize.h"
#include "quantize/gptq/gptq.h"
#include "quantize/layer_work.h"
#include "quantize/output/output_plan.h"
#include "quantize/passes/hidden_states.h"
#include "quantize/passes/layer_statistics.h"
#include "quantize/passes/probe.h"
#include "quantize/phase_clock.h"

namespace nibble {

// What the quantization of every layer shares. Borrows everything; only middle may be null.
//
//   source, output   the original checkpoint; which Linears are quantized, and to which scale type
//   stream           runs all calibration tokens (tokens below)
//   hidden, middle   [tokens, hidden_size]: the layer's inputs, and the residual stream between its
//                    attention and its experts; null if one pass suffices
//   probe            a second stream: the first calibration tokens through the unquantized layers
//   experts_at_once  experts whose Hessians are in memory together
//   describe_token   "token 17 of calibration row 3" for a token's index, for error messages
struct LayerContext {
  const Checkpoint* source = nullptr;
  const ModelSpec* spec = nullptr;
  const Recipe* recipe = nullptr;
  const OutputPlan* output = nullptr;
  Backend* backend = nullptr;
  ActivationStream* stream = nullptr;
  Workspace* workspace = nullptr;
  HiddenStates* hidden = nullptr;  // inputs of the current layer
  HiddenStates* middle = nullptr;  // written and read by LayerQuantizer
  Probe* probe = nullptr;          // advanced through the layer meanwhile
  int64_t experts_at_once = 1;
  bool all_experts = false;
  bool top_up = false;
  std::function<std::string(int64_t)> describe_token;
  PhaseClock* clock = nullptr;
};

// The quantized Linears of a layer, in the order of LayerLinears; empty where the recipe leaves one
// alone.
struct QuantizedLayer {
  std::vector<std::optional<QuantizedLinear>> linears;
  LayerReport report;
};

// Calibrates a layer with its unquantized weights and quantizes its Linears: attention first, then
// the experts, experts_at_once at a time. Without Hessians (rounding to nearest) only the probe is
// run.
class LayerQuantizer {
 public:
  explicit LayerQuantizer(const LayerContext& context);

  QuantizedLayer Quantize(int64_t layer);

  // Runs only the probe, for a layer that an earlier run has finished.
  void MoveProbe(int64_t layer);

 private:
  // Some Linears that read one input, and where their results go.
  struct Tap {
    std::vector<size_t> indices;  // into LayerLinears
    Hessian* hessian;
  };

  // Prefetches the weights that are needed next from disk, on the thread reader_: experts_at_once
  // experts of `layer` from `first` on; after the last one attention and the first experts of the
  // next layer.
  void ReadAhead(int64_t layer, int64_t first);
  void RunExpertsOfProbe(int64_t layer, const LayerWeights& weights, int64_t first, int64_t last);
  void Solve(const std::vector<TensorSpec>& specs, const std::vector<Tap>& taps,
             QuantizedLayer& result);
  void RoundAll(const std::vector<TensorSpec>& specs, QuantizedLayer& result);
  DenseLinear Dense(const TensorSpec& spec) const;
  bool gptq() const { return context_.recipe->method == Method::kGptq; }

  LayerContext context_;
  const ModelConfig* config_;
  LayerStatistics statistics_;
  LayerWork work_;
  std::jthread reader_;
};

}  // namespace nibble
