#pragma once

#include <vector>

#include "backend/backend.h"
#include "checkpoint/model_config.h"
#include "model/mixtral_weights.h"

namespace nibble {

// Listens at the borders between ops; must not change anything. What it is given lives until it
// returns.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  virtual void AttentionInput(const Activation& /*normed*/) {}     // what q, k and v read
  virtual void AttentionOutput(const Activation& /*attended*/) {}  // what o reads
  virtual void ExpertInput(const Activation& /*h*/, const Routing& /*routing*/) {}  // w1, w3
  virtual void ExpertMiddle(const Activation& /*g*/, const Routing& /*routing*/) {
  }  // w2, a row a slot
};

// Scratch activations of one step, made once for the largest step. The activations may be shared by
// all layers, since layers run one after another.
struct LayerScratch {
  LayerScratch(Backend& backend, const ModelConfig& config, int64_t max_tokens);

  Activation normed, q, attended, h, g;  // g holds max_tokens * num_experts_per_token slots
  Routing routing;
  ExpertWeights expert_weights;
};

// The order of ops inside a decoder layer: the only copy. x [tokens, hidden] is updated in place.
// Calls lie between BeginStep and EndStep of `batch`. The config and the backend must outlive it.
class DecoderLayer {
 public:
  DecoderLayer(const ModelConfig& config, Backend& backend);

  // x += o(attention(norm(x))).
  void Attention(const LayerWeights& weights, KvPages kv, Activation& x, LayerScratch& scratch,
                 LayerObserver* observer = nullptr) const;

  // scratch.h, scratch.routing = norm and router of x.
  void Route(const LayerWeights& weights, const Activation& x, LayerScratch& scratch) const;

  // x += Σ experts, over the slots in scratch.routing (after Route, possibly regrouped by the
  // caller).
  void Experts(const LayerWeights& weights, Activation& x, LayerScratch& scratch,
               LayerObserver* observer = nullptr) const;

  // The first half of Experts: scratch.g = silu(w1 h) * (w3 h), a row a slot. Calibration needs no
  // more; the down weights may be absent.
  void ExpertsMiddle(const LayerWeights& weights, LayerScratch& scratch,
                     LayerObserver* observer = nullptr) const;

  // All three.
  void Forward(const LayerWeights& weights, KvPages kv, Activation& x, LayerScratch& scratch,
               LayerObserver* observer = nullptr) const;

 private:
  const ModelConfig* config_;
  Backend* backend_;
  std::vector<float> inverse_frequencies_;
};

// Rotary frequencies theta^(-2i/head_dim), i < head_dim / 2, computed in float as transformers
// does.
std::vector<float> InverseFrequencies(const ModelConfig& config);

}  // namespace nibble
