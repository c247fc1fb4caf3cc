#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/checkpoint.h"

namespace nibble {

class PackedWeights;

// The only list of tensor names. Module names are the published Mixtral ones; the reader also finds
// llm-compressor's experts.E.{gate,up,down}_proj and transformers 5's mlp.gate and fused 3-D
// experts.
namespace mixtral_names {
std::string Layer(int64_t layer);                                       // "model.layers.3"
std::string Attention(int64_t layer, const char* projection);           // "….self_attn.q_proj"
std::string Router(int64_t layer);                                      // "….block_sparse_moe.gate"
std::string Expert(int64_t layer, int64_t expert, const char* linear);  // "….experts.5.w1"
}  // namespace mixtral_names

// One Linear of the model: its published module name and shape.
struct LinearSpec {
  std::string module;
  int64_t rows = 0;
  int64_t cols = 0;
};

// The quantizable Linears of a layer in module order: q, k, v, o, then w1, w2, w3 of each expert.
std::vector<LinearSpec> LayerLinears(const ModelConfig& config, int64_t layer);

// Every Linear of the model in module order, routers and lm_head included.
std::vector<LinearSpec> AllLinears(const ModelConfig& config);

// What the checkpoint holds for a Linear, dense or packed, whatever spelling it uses; a dense
// expert may be a slice of a fused tensor. Where embeddings are tied, lm_head is the embedding.
// Throws kNotFound / kInvalidData naming the tensor, the expected shape and the one found.
WeightView FindLinear(const Checkpoint& checkpoint, const LinearSpec& spec);

// The same for plain tensors by full name, e.g. "model.norm.weight".
TensorView FindTensor(const Checkpoint& checkpoint, const std::string& name, const Shape& shape);

// Throws kInvalidData naming `module` and the element if a dense value, or a scale of a packed
// weight, is NaN or infinite. Scans on the backend's threads.
void CheckFinite(const WeightView& weight, const std::string& module, Backend& backend);

// A weight of the model as the checkpoint holds it, and what it is for. The module names of norms
// and the embedding are those of their tensors without ".weight".
struct WeightSource {
  std::string module;
  WeightView view;
  Role role = Role::kProjection;
};

// Every weight of the model, in the order in which a token meets them. Throws as FindLinear does.
std::vector<WeightSource> AllWeights(const Checkpoint& checkpoint);

// Prepares one: its values are checked to be finite, and afterwards the checkpoint's pages are let
// go of.
std::unique_ptr<Weight> LoadWeight(const Checkpoint& checkpoint, const WeightSource& source,
                                   Backend& backend);

// One decoder layer in a backend's layout. Slots may be empty while the quantizer swaps weights.
struct LayerWeights {
  struct Expert {
    std::unique_ptr<Weight> gate, up, down;  // w1, w3, w2
  };
  std::unique_ptr<Weight> input_norm, q, k, v, o;
  std::unique_ptr<Weight> post_attention_norm, router;
  std::vector<Expert> experts;

  int64_t size_bytes() const;
};

// Loading checks that all values are finite (kInvalidData naming the tensor), and afterwards lets
// go of the checkpoint's pages: what was read is not resident twice. With `packed` nothing is read:
// the weights borrow from its mapping.
LayerWeights LoadLayer(const Checkpoint& checkpoint, int64_t layer, Backend& backend,
                       const PackedWeights* packed = nullptr);
// Everything but the experts (their slots are empty), and a single expert.
LayerWeights LoadLayerWithoutExperts(const Checkpoint& checkpoint, int64_t layer, Backend& backend,
                                     const PackedWeights* packed = nullptr);
LayerWeights::Expert LoadExpert(const Checkpoint& checkpoint, int64_t layer, int64_t expert,
                                Backend& backend, const PackedWeights* packed = nullptr);

// Tells the system that LoadLayer comes soon: the disk reads ahead while another layer is prepared.
void WillNeedLayer(const Checkpoint& checkpoint, int64_t layer);

// What is not in a layer.
struct OuterWeights {
  std::unique_ptr<Weight> embedding, final_norm, head;

  int64_t size_bytes() const;
};
OuterWeights LoadOuter(const Checkpoint& checkpoint, Backend& backend,
                       const PackedWeights* packed = nullptr);

}  // namespace nibble
