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

// What the quantization of every layer shares. Borrows everything.
struct LayerContext {
  const Checkpoint* source = nullptr;
  const ModelSpec* spec = nullptr;
  const Recipe* recipe = nullptr;
  const OutputPlan* output = nullptr;
  Backend* backend = nullptr;
  ActivationStream* stream = nullptr;
  Workspace* workspace = nullptr;
  HiddenStates* hidden = nullptr;  // inputs of the layer at hand
  HiddenStates* middle = nullptr;  // room for as many; null if all experts are done at once
  Probe* probe = nullptr;          // moved through the layer on the way
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
// the experts, as many at a time as memory allows. Without Hessians (rounding to nearest) only the
// probe is run.
class LayerQuantizer {
 public:
  explicit LayerQuantizer(const LayerContext& context);

  QuantizedLayer Quantize(int64_t layer);

  // Only the probe, for a layer that an earlier run has finished.
  void MoveProbe(int64_t layer);

 private:
  // Some Linears that read one input, and where their results go.
  struct Tap {
    std::vector<size_t> indices;  // into LayerLinears
    Hessian* hessian;
  };

  // Has the weights that are needed next fetched from disk while this thread computes: as many
  // experts of `layer` as are done at once, from `first` on; after the last one attention and the
  // first experts of the next layer.
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
