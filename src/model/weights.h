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
// expert may be a slice of a fused tensor. Where embeddings are tied and no lm_head is stored, it
// is the embedding. Throws kNotFound / kInvalidData naming the tensor, the expected shape and the
// one found.
WeightView FindLinear(const Checkpoint& checkpoint, const LinearSpec& spec);

// The same for plain tensors by full name, e.g. "model.norm.weight".
TensorView FindTensor(const Checkpoint& checkpoint, const std::string& name, const Shape& shape);

// The embedding [vocab_size, hidden_size]; lm_head where embeddings are tied and no other is
// stored.
TensorView FindEmbedding(const Checkpoint& checkpoint);

// Whether embedding and head are one tensor: config.json ties them, and not two different ones are
// stored. If they are, both are used as they are, as transformers 5 does (transformers 4 drops the
// head). Compares their bytes.
bool IsHeadTied(const Checkpoint& checkpoint);

// One warning if config.json ties an embedding and a head that are stored and differ.
void WarnOfUntiedHead(const Checkpoint& checkpoint);

// Throws kInvalidData naming `module` and the element if a dense value, or a scale of a packed
// weight, is NaN or infinite. Scans on the threads of `pool`.
void CheckFinite(const WeightView& weight, const std::string& module, ThreadPool& pool);

// A parameter as the checkpoint holds it. The module names of norms and the embedding are those of
// their tensors without ".weight".
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
// as FindLinear does.
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
  std::unique_ptr<Weight> shared_gate;
  ExpertRange shared;

  AttentionWeights attention() const;
  RouterWeights routing() const;
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
