#include "model/decoder_layer.h"

#include <algorithm>

namespace nibble {
namespace {

struct Widths {
  int64_t q = 1;       // columns of queries
  int64_t middle = 1;  // elements of g for each token
  RouterShape router;  // with the most slots a token
};

Widths WidestOf(const ModelSpec& spec) {
  Widths widest;
  for (const LayerSpec& layer : spec.layers) {
    widest.q = std::max(widest.q, layer.q_rows());
    widest.middle = std::max({widest.middle, layer.router.slots_per_token() * layer.intermediate,
                              layer.shared_intermediate});
    if (layer.router.slots_per_token() >= widest.router.slots_per_token()) {
      widest.router = layer.router;
    }
  }
  return widest;
}

}  // namespace

LayerScratch::LayerScratch(Backend& backend, const ModelSpec& spec, int64_t max_tokens) {
  const Widths widest = WidestOf(spec);
  normed = backend.MakeActivation(max_tokens, spec.hidden_size);
  q = backend.MakeActivation(max_tokens, widest.q);
  attended = backend.MakeActivation(max_tokens, widest.q);
  h = backend.MakeActivation(max_tokens, spec.hidden_size);
  g = backend.MakeActivation(max_tokens, widest.middle);
  routing = backend.MakeRouting(widest.router, max_tokens);
}

int64_t LayerScratch::SizeBytes(const ModelSpec& spec, int64_t max_tokens) {
  const Widths widest = WidestOf(spec);
  const int64_t cols = 2 * spec.hidden_size + 2 * widest.q + widest.middle;
  return max_tokens * cols * static_cast<int64_t>(sizeof(float));
}

void DecoderLayer::Attention(const LayerSpec& spec, const LayerWeights& weights, int64_t kv_layer,
                             Activation& x, LayerScratch& scratch, LayerObserver* observer) const {
  const AttentionWeights attention = weights.attention();
  backend_->NormQkvRopeStore(x, spec.attention, attention, kv_layer, scratch.normed, scratch.q);
  if (observer != nullptr) observer->AttentionInput(scratch.normed);
  backend_->Attention(scratch.q, spec.attention, attention, kv_layer, scratch.attended);
  if (observer != nullptr) observer->AttentionOutput(scratch.attended);
  backend_->ProjectResidual(scratch.attended, attention, x);
}

void DecoderLayer::Route(const LayerSpec& spec, const LayerWeights& weights, const Activation& x,
                         LayerScratch& scratch) const {
  backend_->NormRoute(x, spec.router, weights.routing(), scratch.h, *scratch.routing);
}

void DecoderLayer::ExpertsMiddle(const LayerWeights& weights, LayerScratch& scratch,
                                 LayerObserver* observer) const {
  if (observer != nullptr) observer->ExpertInput(scratch.h, *scratch.routing);
  backend_->GateUp(scratch.h, *scratch.routing, weights.experts.weights(), scratch.g);
  if (observer != nullptr) observer->ExpertMiddle(scratch.g, *scratch.routing);
}

void DecoderLayer::Experts(const LayerWeights& weights, Activation& x, LayerScratch& scratch,
                           LayerObserver* observer) const {
  ExpertsMiddle(weights, scratch, observer);
  backend_->DownResidual(scratch.g, *scratch.routing, weights.experts.weights(), x);
}

void DecoderLayer::SharedExpert(const LayerSpec& spec, const LayerWeights& weights, Activation& x,
                                LayerScratch& scratch) const {
  if (spec.shared_intermediate == 0) return;
  const ExpertWeights shared = weights.shared();
  backend_->RouteShared(scratch.h, weights.shared_gate.get(), *scratch.routing);
  backend_->GateUp(scratch.h, *scratch.routing, shared, scratch.g);
  backend_->DownResidual(scratch.g, *scratch.routing, shared, x);
}

void DecoderLayer::Forward(const LayerSpec& spec, const LayerWeights& weights, int64_t kv_layer,
                           Activation& x, LayerScratch& scratch, LayerObserver* observer) const {
  Attention(spec, weights, kv_layer, x, scratch, observer);
  Route(spec, weights, x, scratch);
  Experts(weights, x, scratch, observer);
  SharedExpert(spec, weights, x, scratch);
}

}  // namespace nibble
