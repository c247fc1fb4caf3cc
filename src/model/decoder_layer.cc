#include "model/decoder_layer.h"

#include <cmath>

namespace nibble {

std::vector<float> InverseFrequencies(const ModelConfig& config) {
  std::vector<float> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
    frequencies[i] = 1.0f / std::pow(static_cast<float>(config.rope_theta), exponent);
  }
  return frequencies;
}

LayerScratch::LayerScratch(Backend& backend, const ModelConfig& config, int64_t max_tokens)
    : normed(backend.MakeActivation(max_tokens, config.hidden_size)),
      q(backend.MakeActivation(max_tokens, config.num_heads * config.head_dim)),
      attended(backend.MakeActivation(max_tokens, config.num_heads * config.head_dim)),
      h(backend.MakeActivation(max_tokens, config.hidden_size)),
      g(backend.MakeActivation(max_tokens * config.num_experts_per_token,
                               config.intermediate_size)) {
  const size_t num_experts = static_cast<size_t>(config.num_experts);
  expert_weights.gate.reserve(num_experts);
  expert_weights.up.reserve(num_experts);
  expert_weights.down.reserve(num_experts);
}

DecoderLayer::DecoderLayer(const ModelConfig& config, Backend& backend)
    : config_(&config), backend_(&backend), inverse_frequencies_(InverseFrequencies(config)) {}

void DecoderLayer::Attention(const LayerWeights& weights, KvPages kv, Activation& x,
                             LayerScratch& scratch, LayerObserver* observer) const {
  const AttentionWeights attention{.norm = weights.input_norm.get(),
                                   .q = weights.q.get(),
                                   .k = weights.k.get(),
                                   .v = weights.v.get(),
                                   .num_heads = config_->num_heads,
                                   .num_kv_heads = config_->num_kv_heads,
                                   .head_dim = config_->head_dim,
                                   .norm_eps = static_cast<float>(config_->rms_norm_eps),
                                   .inverse_frequencies = inverse_frequencies_};
  backend_->NormQkvRopeStore(x, attention, kv, scratch.normed, scratch.q);
  if (observer != nullptr) observer->AttentionInput(scratch.normed);
  backend_->Attention(scratch.q, kv, config_->sliding_window, scratch.attended);
  if (observer != nullptr) observer->AttentionOutput(scratch.attended);
  backend_->ProjectResidual(scratch.attended, *weights.o, x);
}

void DecoderLayer::Route(const LayerWeights& weights, const Activation& x,
                         LayerScratch& scratch) const {
  const RouterWeights router{.norm = weights.post_attention_norm.get(),
                             .router = weights.router.get(),
                             .top_k = config_->num_experts_per_token,
                             .norm_eps = static_cast<float>(config_->rms_norm_eps)};
  backend_->NormRoute(x, router, scratch.h, scratch.routing);
}

void DecoderLayer::Experts(const LayerWeights& weights, Activation& x, LayerScratch& scratch,
                           LayerObserver* observer) const {
  ExpertsMiddle(weights, scratch, observer);
  backend_->ExpertsDownResidual(scratch.g, scratch.routing, scratch.expert_weights, x);
}

void DecoderLayer::ExpertsMiddle(const LayerWeights& weights, LayerScratch& scratch,
                                 LayerObserver* observer) const {
  ExpertWeights& experts = scratch.expert_weights;
  experts.gate.clear();
  experts.up.clear();
  experts.down.clear();
  for (const LayerWeights::Expert& expert : weights.experts) {
    experts.gate.push_back(expert.gate.get());
    experts.up.push_back(expert.up.get());
    experts.down.push_back(expert.down.get());
  }
  if (observer != nullptr) observer->ExpertInput(scratch.h, scratch.routing);
  backend_->ExpertsGateUp(scratch.h, scratch.routing, experts, scratch.g);
  if (observer != nullptr) observer->ExpertMiddle(scratch.g, scratch.routing);
}

void DecoderLayer::Forward(const LayerWeights& weights, KvPages kv, Activation& x,
                           LayerScratch& scratch, LayerObserver* observer) const {
  Attention(weights, kv, x, scratch, observer);
  Route(weights, x, scratch);
  Experts(weights, x, scratch, observer);
}

}  // namespace nibble
