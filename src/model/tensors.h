#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/weight.h"
#include "checkpoint/checkpoint.h"
#include "model/family.h"

namespace nibble {

// Which input of a layer a Linear reads: those that read the same one share its statistics.
enum class Tap : uint8_t { kNone, kAttentionInput, kAttentionOutput, kExpertInput, kExpertMiddle };

// One parameter of a model.
struct TensorSpec {
  Part part = Part::kEmbedding;
  int64_t layer = -1;   // -1: outside of the layers
  int64_t expert = -1;  // -1: not an expert's
  std::string module;   // its published name, without ".weight"
  int64_t rows = 0;     // outputs; 1 of a vector
  int64_t cols = 0;
  bool is_vector = false;
  Tap tap = Tap::kNone;  // kNone: never quantized

  bool is_linear() const { return !is_vector && part != Part::kEmbedding; }
  Shape shape() const { return is_vector ? Shape{cols} : Shape{rows, cols}; }
};

// The only list of a model's parameters, in the order in which its family publishes them: load,
// plan, write, read, validate, inspect and count visit it.
std::vector<TensorSpec> TensorsOf(const ModelConfig& config);
std::vector<TensorSpec> LayerTensors(const ModelConfig& config, int64_t layer);
// Those of a layer that may be quantized, in the same order.
std::vector<TensorSpec> LayerLinears(const ModelConfig& config, int64_t layer);

// "model.layers.3".
std::string LayerModule(const Family& family, int64_t layer);

// Every name of a parameter that its family knows, the published one first.
std::vector<std::string> Spellings(const ModelConfig& config, const TensorSpec& tensor);

// What the checkpoint holds for a parameter, dense or packed, whatever spelling it uses; a dense
// expert may be a slice of a fused tensor. Where embeddings are tied and only one of the two is
// stored, it serves as both. Throws kNotFound / kInvalidData naming the tensor, the expected shape
// and the one found.
WeightView FindWeight(const Checkpoint& checkpoint, const TensorSpec& tensor);

// The same for what is dense: vectors, the embedding, anything of a checkpoint without packed
// weights.
TensorView FindDense(const Checkpoint& checkpoint, const TensorSpec& tensor);

// The embedding and the head of the model.
TensorSpec EmbeddingOf(const ModelConfig& config);
TensorSpec HeadOf(const ModelConfig& config);

// Which parameter a tensor of a checkpoint belongs to, if any: by any spelling of its module, or as
// a fusion of several.
std::optional<Part> PartOf(const ModelConfig& config, std::string_view tensor_name);

// Whether embedding and head are one tensor: config.json ties them, and not two different ones are
// stored. If they are, both are used as they are, as transformers 5 does (transformers 4 drops the
// head). Compares their bytes.
bool IsHeadTied(const Checkpoint& checkpoint);

// One warning if config.json ties an embedding and a head that are stored and differ.
void WarnOfUntiedHead(const Checkpoint& checkpoint);

}  // namespace nibble
