#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nibble/quantize.h"
#include "quantize/passes/activation_stream.h"

namespace nibble {

// Log-likelihood of the probe's own next tokens.
struct ProbeScore {
  double nll = 0;  // nats
  int64_t tokens = 0;
  double perplexity() const;
};

// Runs the original model beside the quantized one on the first calibration tokens: through every
// layer with its unquantized weights, never through a quantized one, so that the difference to the
// same rows of the quantized stream is the quantization error so far.
class Probe {
 public:
  static constexpr int64_t kMaxTokens = 1024;

  // Memory of so many tokens between layers, and of the logits that are compared.
  static int64_t ActivationBytes(const ModelSpec& spec, int64_t tokens);
  static int64_t LogitBytes(const ModelSpec& spec, int64_t tokens);

  // `batches` holds at most one step. `outer` (final norm and head) and the rest must outlive this.
  Probe(const ModelSpec& spec, const TokenBatches& batches, Backend& backend, Workspace& workspace,
        const OuterWeights& outer);

  bool empty() const { return batches_->num_tokens == 0; }
  int64_t num_tokens() const { return batches_->num_tokens; }

  void Embed();
  // Runs one layer: RunAttention once, then RunExperts for ascending ranges of experts. Each call
  // needs only the weights it uses.
  void RunAttention(const LayerSpec& layer, const LayerWeights& weights);
  void RunExperts(const LayerWeights& weights, int64_t first, int64_t last);

  // Compares with the first rows of the quantized stream. Throws kInvalidData if its logits are not
  // finite.
  Divergence Compare(const HiddenStates& quantized);

  // How well the probe's tokens are predicted from these activations after the last layer.
  ProbeScore Score(const HiddenStates& hidden);
  const HiddenStates& original() const { return hidden_; }

 private:
  // The logits of rows of `hidden`, a few at a time; `first` is an index into rows.
  void ForEachLogits(const HiddenStates& hidden, std::span<const int32_t> rows,
                     const std::function<void(size_t first, const LogitRows& logits)>& visit);

  const ModelSpec* spec_;
  const TokenBatches* batches_;
  Backend* backend_;
  Workspace* workspace_;
  const OuterWeights* outer_;
  DecoderLayer layer_;
  ActivationStream stream_;
  HiddenStates hidden_;  // outputs of the last layer; while its experts run, their sum so far
  HiddenStates expert_input_;
  RoutingTable routing_;  // of the layer at hand
  std::unique_ptr<LogitRows> logits_;
};

}  // namespace nibble
