#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "checkpoint/model_config.h"
#include "model/spec.h"

namespace nibble {

// The places of a model that a parameter can stand in.
enum class Part : uint8_t {
  kEmbedding,
  kInputNorm,
  kQ,
  kK,
  kV,
  kQBias,
  kKBias,
  kVBias,
  kQNorm,
  kKNorm,
  kSinks,
  kOut,
  kOutBias,
  kMlpNorm,
  kRouter,
  kCorrection,
  kGate,  // of each expert, or of a dense layer's MLP
  kUp,
  kDown,
  kSharedGate,
  kSharedUp,
  kSharedDown,
  kSharedScale,  // the gate of the shared expert's weight
  kFinalNorm,
  kHead,
};

// How a checkpoint spells a parameter. `{l}` stands for the number of the layer, `{e}` for that of
// the expert.
struct TensorRule {
  Part part;
  // Names without ".weight", the published one first: what is written. Of an expert the second is
  // the name under which vLLM asks for its scheme.
  std::vector<std::string_view> modules;
};

// A tensor [experts, rows of all parts, cols] that stands for those of single experts: of each
// expert in turn the rows of `parts` in this order.
struct Fusion {
  std::string_view tensor;
  std::vector<Part> parts;
};

// How a family of models is written down: one value of this, in families/.
struct Family {
  std::string_view model_type;      // of config.json
  std::string_view title;           // for people
  std::string_view layer;           // the module that a layer is
  std::string_view router_hint;     // a pattern for `ignore` that means the routers
  std::vector<TensorRule> tensors;  // as published: what is written, in this order
  std::vector<Fusion> fusions;
  ModelSpec (*read)(const ModelConfig& config);
};

// Throws kUnsupported listing the families there are.
const Family& FindFamily(const ModelConfig& config);

// What the model computes, as its family reads config.json.
ModelSpec SpecOf(const ModelConfig& config);

}  // namespace nibble
