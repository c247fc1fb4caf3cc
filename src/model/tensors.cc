#include "model/tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr std::string_view kLayer = "{l}";
constexpr std::string_view kExpert = "{e}";

bool Names(std::string_view pattern, std::string_view place) {
  return pattern.find(place) != std::string_view::npos;
}

// The pattern with numbers in its places.
std::string Filled(std::string_view pattern, int64_t layer, int64_t expert) {
  std::string name(pattern);
  for (const auto& [place, number] : {std::pair{kLayer, layer}, {kExpert, expert}}) {
    if (const size_t at = name.find(place); at != std::string::npos) {
      name.replace(at, place.size(), std::to_string(number));
    }
  }
  return name;
}

// Whether the module is the pattern with numbers in its places.
bool Matches(std::string_view pattern, std::string_view module) {
  size_t p = 0, m = 0;
  while (p < pattern.size()) {
    if (pattern[p] == '{') {
      const size_t digits = m;
      while (m < module.size() && module[m] >= '0' && module[m] <= '9') ++m;
      if (m == digits) return false;
      p = pattern.find('}', p) + 1;
    } else {
      if (m == module.size() || pattern[p++] != module[m++]) return false;
    }
  }
  return m == module.size();
}

// What a part is where it stands in a layer like this; no rows where such a layer has none.
TensorSpec Shaped(Part part, const ModelSpec& model, const LayerSpec* layer) {
  TensorSpec tensor{.part = part, .module = {}};
  const auto matrix = [&](int64_t rows, int64_t cols, Tap tap = Tap::kNone) {
    tensor.rows = rows;
    tensor.cols = cols;
    tensor.tap = tap;
  };
  const auto vector = [&](bool is_there, int64_t size) {
    tensor.rows = is_there ? 1 : 0;
    tensor.cols = size;
    tensor.is_vector = true;
  };
  const int64_t hidden = model.hidden_size;
  switch (part) {
    case Part::kEmbedding:
    case Part::kHead:
      matrix(model.vocab_size, hidden);
      return tensor;
    case Part::kFinalNorm:
      vector(true, hidden);
      return tensor;
    default:
      break;
  }
  NIBBLE_CHECK(layer != nullptr);
  const int64_t q = layer->q_rows(), kv = layer->kv_rows();
  const int64_t shared = layer->shared_intermediate;
  switch (part) {
    case Part::kInputNorm:
    case Part::kMlpNorm:
      vector(true, hidden);
      break;
    case Part::kQ:
      matrix(q, hidden, Tap::kAttentionInput);
      break;
    case Part::kK:
    case Part::kV:
      matrix(kv, hidden, Tap::kAttentionInput);
      break;
    case Part::kQBias:
      vector(layer->qkv_bias, q);
      break;
    case Part::kKBias:
    case Part::kVBias:
      vector(layer->qkv_bias, kv);
      break;
    case Part::kQNorm:
    case Part::kKNorm:
      vector(layer->qk_norm, layer->attention.head_dim);
      break;
    case Part::kSinks:
      vector(layer->sinks, layer->attention.num_heads);
      break;
    case Part::kOut:
      matrix(hidden, q, Tap::kAttentionOutput);
      break;
    case Part::kOutBias:
      vector(layer->out_bias, hidden);
      break;
    case Part::kRouter:
      matrix(layer->router.num_experts, hidden);
      break;
    case Part::kCorrection:
      vector(layer->correction, layer->router.num_experts);
      break;
    case Part::kGate:
    case Part::kUp:
      matrix(layer->intermediate, hidden, Tap::kExpertInput);
      break;
    case Part::kDown:
      matrix(hidden, layer->intermediate, Tap::kExpertMiddle);
      break;
    case Part::kSharedGate:
    case Part::kSharedUp:
      matrix(shared, hidden);
      break;
    case Part::kSharedDown:
      matrix(shared == 0 ? 0 : hidden, shared);
      break;
    case Part::kSharedScale:
      matrix(layer->shared_gate ? 1 : 0, hidden);
      break;
    default:
      NIBBLE_CHECK(false);
  }
  return tensor;
}

bool IsExperts(const TensorRule& rule) { return Names(rule.modules.front(), kExpert); }
bool IsInLayer(const TensorRule& rule) { return Names(rule.modules.front(), kLayer); }

void Add(const TensorRule& rule, const ModelSpec& model, int64_t layer, int64_t expert,
         std::vector<TensorSpec>& tensors) {
  TensorSpec tensor = Shaped(rule.part, model, layer < 0 ? nullptr : &model.layer(layer));
  if (tensor.rows == 0) return;
  tensor.layer = layer;
  tensor.expert = expert;
  tensor.module = Filled(rule.modules.front(), layer, expert);
  tensors.push_back(std::move(tensor));
}

void AddLayer(const Family& family, const ModelSpec& model, int64_t layer,
              std::vector<TensorSpec>& tensors) {
  for (auto rule = family.tensors.begin(); rule != family.tensors.end();) {
    if (!IsInLayer(*rule)) {
      ++rule;
    } else if (!IsExperts(*rule)) {
      Add(*rule++, model, layer, -1, tensors);
    } else {  // the rules of an expert belong together
      const auto end = std::find_if_not(rule, family.tensors.end(), IsExperts);
      for (int64_t expert = 0; expert < model.layer(layer).router.num_groups(); ++expert) {
        for (auto of_expert = rule; of_expert != end; ++of_expert) {
          Add(*of_expert, model, layer, expert, tensors);
        }
      }
      rule = end;
    }
  }
}

TensorSpec Outer(const ModelConfig& config, Part part) {
  const Family& family = FindFamily(config);
  const ModelSpec model = family.read(config);
  std::vector<TensorSpec> found;
  for (const TensorRule& rule : family.tensors) {
    if (rule.part == part) Add(rule, model, -1, -1, found);
  }
  NIBBLE_CHECK(found.size() == 1);
  return found.front();
}

// The slice of a stacked tensor that is this expert's.
std::optional<TensorView> FindFused(const Checkpoint& checkpoint, const TensorSpec& tensor) {
  if (tensor.expert < 0) return std::nullopt;
  const Family& family = FindFamily(checkpoint.config());
  const ModelSpec model = family.read(checkpoint.config());
  const LayerSpec& layer = model.layer(tensor.layer);
  for (const Fusion& fusion : family.fusions) {
    const std::string name = Filled(fusion.tensor, tensor.layer, tensor.expert);
    if (std::ranges::find(fusion.parts, tensor.part) == fusion.parts.end()) continue;
    if (!checkpoint.Has(name)) continue;
    int64_t before = 0, all = 0;  // rows of an expert
    for (const Part part : fusion.parts) {
      if (part == tensor.part) before = all;
      all += Shaped(part, model, &layer).rows;
    }
    const TensorView fused =
        checkpoint.Get(name, Shape{layer.router.num_groups(), all, tensor.cols});
    const int64_t row = tensor.expert * all + before;
    return TensorView(fused.data() + row * tensor.cols * DTypeSize(fused.dtype()), fused.dtype(),
                      Shape{tensor.rows, tensor.cols});
  }
  return std::nullopt;
}

bool IsStored(const Checkpoint& checkpoint, const std::string& module) {
  return checkpoint.Has(module + ".weight") || checkpoint.IsPacked(module);
}

// The names under which a parameter may be stored. Where config.json ties embedding and head and
// only the other one is stored, that is the name.
std::vector<std::string> NamesOf(const Checkpoint& checkpoint, const TensorSpec& tensor) {
  const ModelConfig& config = checkpoint.config();
  const bool is_table = tensor.part == Part::kEmbedding || tensor.part == Part::kHead;
  if (is_table && config.tie_word_embeddings && !IsStored(checkpoint, tensor.module)) {
    const TensorSpec other =
        Outer(config, tensor.part == Part::kHead ? Part::kEmbedding : Part::kHead);
    if (IsStored(checkpoint, other.module)) return {other.module};
  }
  return Spellings(config, tensor);
}

TensorView GetFloats(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  const TensorView view = checkpoint.Get(name, shape);
  if (!IsFloat(view.dtype())) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: expected BF16, F16 or F32 values, found {}", name,
                            DTypeName(view.dtype())));
  }
  return view;
}

}  // namespace

std::vector<TensorSpec> TensorsOf(const ModelConfig& config) {
  const Family& family = FindFamily(config);
  const ModelSpec model = family.read(config);
  std::vector<TensorSpec> tensors;
  bool layers_done = false;
  for (const TensorRule& rule : family.tensors) {
    if (!IsInLayer(rule)) {
      Add(rule, model, -1, -1, tensors);
    } else if (!std::exchange(layers_done, true)) {
      for (int64_t layer = 0; layer < model.num_layers(); ++layer) {
        AddLayer(family, model, layer, tensors);
      }
    }
  }
  return tensors;
}

std::vector<TensorSpec> LayerTensors(const ModelConfig& config, int64_t layer) {
  const Family& family = FindFamily(config);
  std::vector<TensorSpec> tensors;
  AddLayer(family, family.read(config), layer, tensors);
  return tensors;
}

std::vector<TensorSpec> LayerLinears(const ModelConfig& config, int64_t layer) {
  std::vector<TensorSpec> tensors = LayerTensors(config, layer);
  std::erase_if(tensors, [](const TensorSpec& tensor) { return tensor.tap == Tap::kNone; });
  return tensors;
}

std::string LayerModule(const Family& family, int64_t layer) {
  return Filled(family.layer, layer, -1);
}

TensorSpec EmbeddingOf(const ModelConfig& config) { return Outer(config, Part::kEmbedding); }
TensorSpec HeadOf(const ModelConfig& config) { return Outer(config, Part::kHead); }

std::vector<std::string> Spellings(const ModelConfig& config, const TensorSpec& tensor) {
  std::vector<std::string> spellings;
  for (const TensorRule& rule : FindFamily(config).tensors) {
    if (rule.part != tensor.part || IsExperts(rule) != (tensor.expert >= 0)) continue;
    for (const std::string_view module : rule.modules) {
      spellings.push_back(Filled(module, tensor.layer, tensor.expert));
    }
  }
  return spellings;
}

WeightView FindWeight(const Checkpoint& checkpoint, const TensorSpec& tensor) {
  const std::vector<std::string> names = NamesOf(checkpoint, tensor);
  for (const std::string& module : names) {
    if (checkpoint.IsPacked(module)) {
      return checkpoint.GetPacked(module, tensor.rows, tensor.cols);
    }
    if (!checkpoint.Has(module + ".weight")) continue;
    // Such weights are rounded when they are used, as calibration leaves them.
    if (checkpoint.Has(module + ".weight_scale")) {
      throw Error(
          ErrorCode::kUnsupported,
          fmt::format("{}: {}.weight has a weight_scale beside it and is not packed; nibble "
                      "reads weights that were compressed when they were saved",
                      checkpoint.directory().string(), module));
    }
    return GetFloats(checkpoint, module + ".weight", tensor.shape());
  }
  if (const auto fused = FindFused(checkpoint, tensor)) return *fused;
  for (const std::string& module : names) {
    for (const char* suffix : {".weight", ".weight_packed"}) {
      if (const auto why = checkpoint.Disagreement(module + suffix)) {
        throw Error(ErrorCode::kInvalidData, *why);
      }
    }
  }
  const std::string others = fmt::format("{}", fmt::join(names.begin() + 1, names.end(), ", "));
  throw Error(ErrorCode::kNotFound,
              fmt::format("{}: no tensor {}.weight {}{}{}{}; the checkpoint is incomplete or not "
                          "of the {} family",
                          checkpoint.directory().string(), tensor.module, tensor.shape().ToString(),
                          tensor.is_linear() ? " or " + tensor.module + ".weight_packed" : "",
                          others.empty() ? "" : ", nor under the names ", others,
                          FindFamily(checkpoint.config()).title));
}

TensorView FindDense(const Checkpoint& checkpoint, const TensorSpec& tensor) {
  const WeightView weight = FindWeight(checkpoint, tensor);
  if (const auto* dense = std::get_if<TensorView>(&weight)) return *dense;
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}: expected BF16, F16 or F32 values, "
                                                   "found packed integers",
                                                   checkpoint.directory().string(), tensor.module));
}

std::optional<Part> PartOf(const ModelConfig& config, std::string_view tensor_name) {
  const Family& family = FindFamily(config);
  for (const Fusion& fusion : family.fusions) {
    if (Matches(fusion.tensor, tensor_name)) return fusion.parts.front();
  }
  const size_t dot = tensor_name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view module = tensor_name.substr(0, dot);
  for (const TensorRule& rule : family.tensors) {
    const auto is_module = [&](std::string_view pattern) { return Matches(pattern, module); };
    if (std::ranges::any_of(rule.modules, is_module)) return rule.part;
  }
  return std::nullopt;
}

bool IsHeadTied(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  if (!config.tie_word_embeddings) return false;
  const TensorSpec embedding = EmbeddingOf(config), head = HeadOf(config);
  if (!IsStored(checkpoint, embedding.module) || !IsStored(checkpoint, head.module)) return true;
  const WeightView stored = FindWeight(checkpoint, head);
  const auto* dense = std::get_if<TensorView>(&stored);
  if (dense == nullptr) return false;
  const TensorView table = FindDense(checkpoint, embedding);
  const bool equal = dense->dtype() == table.dtype() &&
                     std::memcmp(dense->data(), table.data(), table.bytes().size()) == 0;
  checkpoint.DontNeed(*dense);
  checkpoint.DontNeed(table);
  return equal;
}

void WarnOfUntiedHead(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  if (!config.tie_word_embeddings || IsHeadTied(checkpoint)) return;
  LogWarning(
      "head_not_tied directory={} reason=\"config.json sets tie_word_embeddings, but {}.weight "
      "differs from {}.weight\" effect=\"both are used as they are stored\"",
      checkpoint.directory().string(), HeadOf(config).module, EmbeddingOf(config).module);
}

}  // namespace nibble
