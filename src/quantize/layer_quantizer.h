#pragma once

#include <cstdint>
#include <optional>
#include <thread>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/tensors.h"
#include "nibble/quantize.h"
#include "quantize/gptq/gptq.h"
#include "quantize/layer_work.h"
#include "quantize/memory_plan.h"
#include "quantize/output/output_plan.h"
#include "quantize/passes/hidden_states.h"
#include "quantize/passes/layer_statistics.h"
#include "quantize/passes/probe.h"
#include "quantize/phase_clock.h"

namespace nibble {

// What the quantization of every layer shares. Borrows.
struct LayerContext {
  const Checkpoint& source;
  const ModelSpec& spec;
  const Recipe& recipe;
  const OutputPlan& output;  // which Linears are quantized, and to which scale type
  LayerPlan plan;
  ExpertTokens expert_tokens = ExpertTokens::kRouted;
  ActivationStream& stream;  // runs all calibration tokens
  Probe& probe;              // a second stream: is run through the unquantized layers meanwhile
  PhaseClock& clock;
};

// The quantized Linears of a layer, in the order of LayerLinears; empty where the recipe leaves one
// alone.
struct QuantizedLayer {
  std::vector<std::optional<QuantizedLinear>> linears;
  LayerReport report;
};

// Calibrates a layer with its unquantized weights and quantizes its Linears, in as many passes over
// the calibration tokens as the plan says. Without Hessians (rounding to nearest) only the probe is
// run.
class LayerQuantizer {
 public:
  // `expert_input`: room for the inputs of the experts, of all tokens, if the plan keeps them.
  LayerQuantizer(const LayerContext& context, HiddenStates expert_input);

  // `hidden` are the layer's inputs. Throws NonFiniteActivations, which does not know the layer.
  QuantizedLayer Quantize(int64_t layer, const HiddenStates& hidden);

  // Runs only the probe, for a layer that an earlier run has finished.
  void MoveProbe(int64_t layer);

 private:
  // A layer on its way.
  struct Job {
    int64_t layer;
    const LayerSpec& spec;
    std::vector<TensorSpec> linears;
    QuantizedLayer result;
  };

  // What some Linears read.
  struct Input {
    Hessian* hessian;
    std::vector<size_t> linears = {};  // indices into those of the job
  };

  // The three ways of LayerPlan::Passes.
  void RoundAll(Job& job);
  void QuantizeInOnePass(Job& job, const HiddenStates& hidden);
  void QuantizeInTurns(Job& job, const HiddenStates& hidden);

  // Zeros.
  AttentionHessians MakeAttentionHessians(const LayerSpec& spec) const;
  std::vector<ExpertHessians> MakeExpertHessians(const LayerSpec& spec, int64_t count) const;
  static Input InputOf(const Job& job, Tap tap, int64_t expert, Hessian& hessian);
  static std::vector<Input> InputsOf(const Job& job, AttentionHessians& hessians);
  // experts[0] is expert `first`'s.
  static std::vector<Input> InputsOf(const Job& job, std::vector<ExpertHessians>& experts,
                                     int64_t first);

  void Solve(Job& job, const std::vector<Input>& inputs);
  void CountTokens(const RouterCensus& census, LayerReport& report) const;
  void CountExtraTokens(const std::vector<ExpertHessians>& experts, int64_t first,
                        LayerReport& report) const;
  // Prefetches Linears from disk, on the thread reader_: those of experts [first, last) of a layer,
  // and of attention if `first` is -1; of the next layer those that are needed first.
  void ReadAhead(int64_t layer, int64_t first, int64_t last);
  void ReadAheadNextLayer(int64_t layer);
  DenseLinear Dense(const TensorSpec& spec) const;

  LayerContext context_;
  HiddenStates expert_input_;
  LayerStatistics statistics_;
  LayerWork work_;
  std::jthread reader_;
};

}  // namespace nibble
