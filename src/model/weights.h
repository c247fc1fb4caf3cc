#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/checkpoint.h"
#include "model/tensors.h"

namespace nibble {

class PackedWeights;

// Throws kInvalidData naming `module` and the element if a dense value, or a scale of a packed
// weight, is NaN or infinite. Scans on the threads of `pool`.
void CheckFinite(const WeightView& weight, const std::string& module, ThreadPool& pool);

// A parameter as the checkpoint holds it, under its published name.
struct WeightPart {
  std::string module;
  WeightView view;
};

// Parameters that a backend prepares together.
struct WeightSource {
  Role role = Role::kProjection;
  std::vector<WeightPart> parts;

  std::vector<WeightView> views() const;
};

// Every weight of the model, in the order in which a token meets them; experts one by one. Throws
// as FindWeight does.
std::vector<WeightSource> AllWeights(const Checkpoint& checkpoint);

// Prepares one: its values are checked to be finite, and the checkpoint's pages are released as
// soon as they are copied.
std::unique_ptr<Weight> LoadWeight(const Checkpoint& checkpoint, const WeightSource& source,
                                   Backend& backend);

// Experts [first, first + n) of a layer, prepared together.
struct ExpertRange {
  std::unique_ptr<Weight> gate_up, down;
  int64_t first = 0;

  ExpertWeights weights() const { return {gate_up.get(), down.get(), first}; }
};

// One decoder layer in a backend's layout. What the model does not have is null; the quantizer
// swaps weights.
struct LayerWeights {
  std::unique_ptr<Weight> input_norm, qkv, qkv_bias, q_norm, k_norm, sinks, out, out_bias;
  std::unique_ptr<Weight> mlp_norm, router, correction;
  ExpertRange experts;
  std::unique_ptr<Weight> shared_gate, shared_gate_up, shared_down;

  AttentionWeights attention() const;
  RouterWeights routing() const;
  ExpertWeights shared() const { return {shared_gate_up.get(), shared_down.get(), 0}; }
  int64_t size_bytes() const;
};

// Loading checks that all values are finite (kInvalidData naming the tensor), and releases the
// checkpoint's pages: what was read is not resident twice. With `packed` nothing is read: the
// weights borrow from its mapping.
LayerWeights LoadLayer(const Checkpoint& checkpoint, int64_t layer, Backend& backend,
                       const PackedWeights* packed = nullptr);
// Everything but the routed experts, and experts [first, last).
LayerWeights LoadLayerWithoutExperts(const Checkpoint& checkpoint, int64_t layer, Backend& backend,
                                     const PackedWeights* packed = nullptr);
ExpertRange LoadExperts(const Checkpoint& checkpoint, int64_t layer, int64_t first, int64_t last,
                        Backend& backend, const PackedWeights* packed = nullptr);

// A layer from somewhere else than a checkpoint: `find` gives what there is for each of its
// `tensors`, `load` prepares some of them together.
LayerWeights LoadLayerFrom(
    const std::vector<TensorSpec>& tensors,
    const std::function<WeightView(const TensorSpec& tensor)>& find,
    const std::function<std::unique_ptr<Weight>(const WeightSource& source)>& load);

// Tells the system that LoadLayer comes soon: the disk reads ahead while another layer is prepared.
void WillNeedLayer(const Checkpoint& checkpoint, int64_t layer);

// What is not in a layer.
struct OuterWeights {
  std::unique_ptr<Weight> embedding, final_norm, head;

  HeadWeights head_weights(float norm_eps) const {
    return {final_norm.get(), head.get(), norm_eps};
  }
  int64_t size_bytes() const;
};
OuterWeights LoadOuter(const Checkpoint& checkpoint, Backend& backend,
                       const PackedWeights* packed = nullptr);

}  // namespace nibble
