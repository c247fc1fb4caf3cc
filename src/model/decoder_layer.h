#pragma once

#include <memory>

#include "backend/backend.h"
#include "model/spec.h"
#include "model/weights.h"

namespace nibble {

// Listens at the borders between ops; must not change anything. What it is given lives until it
// returns.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // [tokens, hidden]: into q, k and v; then [tokens, num_heads * head_dim]: into out.
  virtual void AttentionInput(const Activation& /*normed*/) {}
  virtual void AttentionOutput(const Activation& /*attended*/) {}
  // [tokens, hidden]: into gate and up; then [slots, intermediate]: into down. h lives until
  // ExpertMiddle has returned.
  virtual void ExpertInput(const Activation& /*h*/, const Routing& /*routing*/) {}
  virtual void ExpertMiddle(const Activation& /*g*/, const Routing& /*routing*/) {}
};

// Scratch of one step, made once for the largest. Layers run one after another and share it.
struct LayerScratch {
  LayerScratch(Backend& backend, const ModelSpec& spec, int64_t max_tokens);

  // What one takes, where activations are floats.
  static int64_t SizeBytes(const ModelSpec& spec, int64_t max_tokens);

  // The number of slots of a layer that fit in g.
  int64_t max_slots(const LayerSpec& spec) const { return g.capacity / spec.intermediate; }

  Activation normed;    // [tokens, hidden]
  Activation q;         // [tokens, num_heads * head_dim]
  Activation attended;  // likewise
  Activation h;         // [tokens, hidden]
  Activation g;         // [slots, intermediate]: room for the slots that the router makes
  std::unique_ptr<Routing> routing;
};

// The order of ops inside a decoder layer: the only copy. x [tokens, hidden] is updated in place.
// Calls lie between BeginStep and EndStep; `kv_layer` is the layer's number in the pages of the
// step. The backend must outlive it.
class DecoderLayer {
 public:
  explicit DecoderLayer(Backend& backend) : backend_(&backend) {}

  // x += out(attention(norm(x))).
  void Attention(const LayerSpec& spec, const LayerWeights& weights, int64_t kv_layer,
                 Activation& x, LayerScratch& scratch, LayerObserver* observer = nullptr) const;

  // scratch.h, scratch.routing = norm and router of x.
  void Route(const LayerSpec& spec, const LayerWeights& weights, const Activation& x,
             LayerScratch& scratch) const;

  // x += Σ experts, reading scratch.h over the slots in scratch.routing: those of Route, or others
  // that the caller has uploaded.
  void Experts(const LayerWeights& weights, Activation& x, LayerScratch& scratch,
               LayerObserver* observer = nullptr) const;

  // The first half of Experts: scratch.g = silu(gate h) * (up h), a row a slot. Calibration needs
  // no more; the down weights may be absent.
  void ExpertsMiddle(const LayerWeights& weights, LayerScratch& scratch,
                     LayerObserver* observer = nullptr) const;

  // x += the expert shared by all tokens, where the layer has one. Uses scratch.routing up.
  void SharedExpert(const LayerSpec& spec, const LayerWeights& weights, Activation& x,
                    LayerScratch& scratch) const;

  // All of them.
  void Forward(const LayerSpec& spec, const LayerWeights& weights, int64_t kv_layer, Activation& x,
               LayerScratch& scratch, LayerObserver* observer = nullptr) const;

 private:
  Backend* backend_;
};

}  // namespace nibble
