#include "model/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "model/packed_weights.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr std::string_view kMoe = ".block_sparse_moe.";
constexpr std::string_view kMlp = ".mlp.";  // its name since transformers 5
constexpr std::string_view kExperts = "experts.";
constexpr char kEmbedding[] = "model.embed_tokens";
constexpr char kHead[] = "lm_head";

// A published module name cut at the experts block: prefix "model.layers.3", then "gate" or
// "experts.5.w1". Names outside the block have no parts.
struct MoeModule {
  std::string prefix;
  std::string rest;
  int64_t expert = -1;  // -1: the router
  std::string linear;   // "w1"
};

std::optional<MoeModule> ParseMoeModule(const std::string& module) {
  const size_t at = module.find(kMoe);
  if (at == std::string::npos) return std::nullopt;
  MoeModule parts{
      .prefix = module.substr(0, at), .rest = module.substr(at + kMoe.size()), .linear = {}};
  if (parts.rest.starts_with(kExperts)) {
    const size_t dot = parts.rest.rfind('.');
    parts.expert = std::stoll(parts.rest.substr(kExperts.size(), dot - kExperts.size()));
    parts.linear = parts.rest.substr(dot + 1);
  }
  return parts;
}

// llm-compressor's name of a published expert Linear.
std::string_view ProjectionName(std::string_view linear) {
  return linear == "w1" ? "gate_proj" : linear == "w3" ? "up_proj" : "down_proj";
}

// Module names under which a Linear may be stored, the published one first.
std::vector<std::string> Spellings(const std::string& module) {
  const auto parts = ParseMoeModule(module);
  if (!parts) return {module};
  const std::string mlp = parts->prefix + std::string(kMlp);
  if (parts->expert < 0) return {module, mlp + parts->rest};
  const std::string projection =
      fmt::format("experts.{}.{}", parts->expert, ProjectionName(parts->linear));
  return {module, parts->prefix + std::string(kMoe) + projection, mlp + projection,
          mlp + parts->rest};
}

// transformers 5 stacks the experts: gate_up_proj [experts, 2 * intermediate, hidden] with the w1
// rows first, down_proj [experts, hidden, intermediate].
std::optional<TensorView> FindFusedExpert(const Checkpoint& checkpoint, const LinearSpec& spec) {
  const auto parts = ParseMoeModule(spec.module);
  if (!parts || parts->expert < 0) return std::nullopt;
  const bool is_down = parts->linear == "w2";
  const int64_t num_experts = checkpoint.config().num_experts;
  const int64_t fused_rows = is_down ? spec.rows : 2 * spec.rows;
  for (const std::string_view block : {kMlp, kMoe}) {
    const std::string name =
        fmt::format("{}{}experts.{}", parts->prefix, block, is_down ? "down_proj" : "gate_up_proj");
    if (!checkpoint.Has(name)) continue;
    const TensorView fused =
        FindTensor(checkpoint, name, Shape{num_experts, fused_rows, spec.cols});
    const int64_t row = parts->expert * fused_rows + (parts->linear == "w3" ? spec.rows : 0);
    return TensorView(fused.data() + row * spec.cols * DTypeSize(fused.dtype()), fused.dtype(),
                      Shape{spec.rows, spec.cols});
  }
  return std::nullopt;
}

void WillNeed(const Checkpoint& checkpoint, const WeightView& weight) {
  if (const auto* dense = std::get_if<TensorView>(&weight)) {
    checkpoint.WillNeed(*dense);
    return;
  }
  const auto& packed = std::get<PackedView>(weight);
  checkpoint.WillNeed(packed.packed);
  checkpoint.WillNeed(packed.scales);
}

void Release(const Checkpoint& checkpoint, const WeightView& weight) {
  if (const auto* dense = std::get_if<TensorView>(&weight)) {
    checkpoint.DontNeed(*dense);
    return;
  }
  const auto& packed = std::get<PackedView>(weight);
  checkpoint.DontNeed(packed.packed);
  checkpoint.DontNeed(packed.scales);
}

bool IsStored(const Checkpoint& checkpoint, const std::string& module) {
  return checkpoint.Has(module + ".weight") || checkpoint.IsPacked(module);
}

// Which of the two tables stands for `module`: itself, or where config.json ties them and it alone
// is not stored, the other.
std::string TableOf(const Checkpoint& checkpoint, const std::string& module) {
  const char* other = module == kHead ? kEmbedding : kHead;
  const bool replaced = checkpoint.config().tie_word_embeddings && !IsStored(checkpoint, module) &&
                        IsStored(checkpoint, other);
  return replaced ? other : module;
}

LinearSpec HeadSpec(const ModelConfig& config) {
  return {kHead, config.vocab_size, config.hidden_size};
}

LinearSpec RouterSpec(const ModelConfig& config, int64_t layer) {
  return {mixtral_names::Router(layer), config.num_experts, config.hidden_size};
}

LinearSpec ExpertSpec(const ModelConfig& config, int64_t layer, int64_t expert,
                      const char* linear) {
  const bool is_down = std::string_view(linear) == "w2";
  return {mixtral_names::Expert(layer, expert, linear),
          is_down ? config.hidden_size : config.intermediate_size,
          is_down ? config.intermediate_size : config.hidden_size};
}

// q, k, v, o.
std::vector<LinearSpec> AttentionSpecs(const ModelConfig& config, int64_t layer) {
  const int64_t query = config.num_heads * config.head_dim;
  const int64_t kv = config.num_kv_heads * config.head_dim;
  return {{mixtral_names::Attention(layer, "q_proj"), query, config.hidden_size},
          {mixtral_names::Attention(layer, "k_proj"), kv, config.hidden_size},
          {mixtral_names::Attention(layer, "v_proj"), kv, config.hidden_size},
          {mixtral_names::Attention(layer, "o_proj"), config.hidden_size, query}};
}

WeightPart LinearPart(const Checkpoint& checkpoint, const LinearSpec& spec) {
  return {spec.module, FindLinear(checkpoint, spec)};
}

WeightSource VectorSource(const Checkpoint& checkpoint, const std::string& module) {
  const Shape shape{checkpoint.config().hidden_size};
  return {Role::kVector, {{module, FindTensor(checkpoint, module + ".weight", shape)}}};
}

// Norm; q, k, v; o; norm; router.
struct LayerSources {
  WeightSource input_norm, qkv, out, mlp_norm, router;
};

LayerSources SourcesOfLayer(const Checkpoint& checkpoint, int64_t layer) {
  const ModelConfig& config = checkpoint.config();
  const std::string prefix = mixtral_names::Layer(layer);
  const std::vector<LinearSpec> attention = AttentionSpecs(config, layer);
  LayerSources sources;
  sources.input_norm = VectorSource(checkpoint, prefix + ".input_layernorm");
  sources.qkv.role = Role::kQkv;
  for (size_t i = 0; i < 3; ++i) {
    sources.qkv.parts.push_back(LinearPart(checkpoint, attention[i]));
  }
  sources.out = {Role::kProjection, {LinearPart(checkpoint, attention[3])}};
  sources.mlp_norm = VectorSource(checkpoint, prefix + ".post_attention_layernorm");
  sources.router = {Role::kRouter, {LinearPart(checkpoint, RouterSpec(config, layer))}};
  return sources;
}

// Gate and up of experts [first, last) in turn, and their down.
struct ExpertSources {
  WeightSource gate_up{Role::kGateUp, {}};
  WeightSource down{Role::kDown, {}};
};

ExpertSources SourcesOfExperts(const Checkpoint& checkpoint, int64_t layer, int64_t first,
                               int64_t last) {
  ExpertSources sources;
  for (int64_t expert = first; expert < last; ++expert) {
    const auto part = [&](const char* linear) {
      return LinearPart(checkpoint, ExpertSpec(checkpoint.config(), layer, expert, linear));
    };
    sources.gate_up.parts.push_back(part("w1"));
    sources.gate_up.parts.push_back(part("w3"));
    sources.down.parts.push_back(part("w2"));
  }
  return sources;
}

WeightSource EmbeddingSource(const Checkpoint& checkpoint) {
  return {Role::kEmbedding, {{kEmbedding, FindEmbedding(checkpoint)}}};
}

WeightSource HeadSource(const Checkpoint& checkpoint) {
  return {Role::kHead, {LinearPart(checkpoint, HeadSpec(checkpoint.config()))}};
}

// Where a weight comes from: the file of packed ones, if there is one.
struct Loader {
  const Checkpoint& checkpoint;
  Backend& backend;
  const PackedWeights* packed;

  std::unique_ptr<Weight> operator()(const WeightSource& source) const {
    return packed != nullptr ? packed->Adopt(source) : LoadWeight(checkpoint, source, backend);
  }
};

int64_t SizeOf(const std::unique_ptr<Weight>& weight) {
  return weight == nullptr ? 0 : weight->size_bytes();
}

}  // namespace

namespace mixtral_names {

std::string Layer(int64_t layer) { return fmt::format("model.layers.{}", layer); }

std::string Attention(int64_t layer, const char* projection) {
  return fmt::format("model.layers.{}.self_attn.{}", layer, projection);
}

std::string Router(int64_t layer) {
  return fmt::format("model.layers.{}.block_sparse_moe.gate", layer);
}

std::string Expert(int64_t layer, int64_t expert, const char* linear) {
  return fmt::format("model.layers.{}.block_sparse_moe.experts.{}.{}", layer, expert, linear);
}

}  // namespace mixtral_names

std::vector<LinearSpec> LayerLinears(const ModelConfig& config, int64_t layer) {
  std::vector<LinearSpec> linears = AttentionSpecs(config, layer);
  for (int64_t expert = 0; expert < config.num_experts; ++expert) {
    for (const char* linear : {"w1", "w2", "w3"}) {
      linears.push_back(ExpertSpec(config, layer, expert, linear));
    }
  }
  return linears;
}

std::vector<LinearSpec> AllLinears(const ModelConfig& config) {
  std::vector<LinearSpec> linears;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    std::vector<LinearSpec> in_layer = LayerLinears(config, layer);
    in_layer.insert(in_layer.begin() + 4, RouterSpec(config, layer));  // after the attention
    std::move(in_layer.begin(), in_layer.end(), std::back_inserter(linears));
  }
  linears.push_back(HeadSpec(config));
  return linears;
}

TensorView FindTensor(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  const TensorView view = checkpoint.Get(name, shape);
  if (!IsFloat(view.dtype())) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: expected BF16, F16 or F32 values, found {}", name,
                            DTypeName(view.dtype())));
  }
  return view;
}

TensorView FindEmbedding(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  return FindTensor(checkpoint, TableOf(checkpoint, kEmbedding) + ".weight",
                    Shape{config.vocab_size, config.hidden_size});
}

bool IsHeadTied(const Checkpoint& checkpoint) {
  if (!checkpoint.config().tie_word_embeddings) return false;
  if (!IsStored(checkpoint, kEmbedding) || !IsStored(checkpoint, kHead)) return true;
  const WeightView head = FindLinear(checkpoint, HeadSpec(checkpoint.config()));
  const auto* dense = std::get_if<TensorView>(&head);
  const TensorView embedding = FindEmbedding(checkpoint);
  const bool equal = dense != nullptr && dense->dtype() == embedding.dtype() &&
                     std::memcmp(dense->data(), embedding.data(), embedding.bytes().size()) == 0;
  Release(checkpoint, head);
  Release(checkpoint, embedding);
  return equal;
}

void WarnOfUntiedHead(const Checkpoint& checkpoint) {
  if (!checkpoint.config().tie_word_embeddings || IsHeadTied(checkpoint)) return;
  LogWarning(
      "head_not_tied directory={} reason=\"config.json sets tie_word_embeddings, but {}.weight "
      "differs from {}.weight\" effect=\"both are used as they are stored\"",
      checkpoint.directory().string(), kHead, kEmbedding);
}

WeightView FindLinear(const Checkpoint& checkpoint, const LinearSpec& spec) {
  const Shape shape{spec.rows, spec.cols};
  const std::vector<std::string> spellings =
      spec.module == kHead ? std::vector{TableOf(checkpoint, kHead)} : Spellings(spec.module);
  for (const std::string& module : spellings) {
    if (checkpoint.IsPacked(module)) return checkpoint.GetPacked(module, spec.rows, spec.cols);
    if (!checkpoint.Has(module + ".weight")) continue;
    // Such weights are rounded when they are used, as calibration leaves them.
    if (checkpoint.Has(module + ".weight_scale")) {
      throw Error(
          ErrorCode::kUnsupported,
          fmt::format("{}: {}.weight has a weight_scale beside it and is not packed; nibble "
                      "reads weights that were compressed when they were saved",
                      checkpoint.directory().string(), module));
    }
    return FindTensor(checkpoint, module + ".weight", shape);
  }
  if (const auto fused = FindFusedExpert(checkpoint, spec)) return *fused;
  for (const std::string& module : spellings) {
    for (const char* suffix : {".weight", ".weight_packed"}) {
      if (const auto why = checkpoint.Disagreement(module + suffix)) {
        throw Error(ErrorCode::kInvalidData, *why);
      }
    }
  }
  std::string others;
  for (size_t i = 1; i < spellings.size(); ++i) others += ", " + spellings[i];
  throw Error(ErrorCode::kNotFound,
              fmt::format("{}: no tensor {}.weight {} or {}.weight_packed{}{}; the checkpoint is "
                          "incomplete or not of the Mixtral family",
                          checkpoint.directory().string(), spec.module, shape.ToString(),
                          spec.module, others.empty() ? "" : ", nor under the names ",
                          others.empty() ? "" : others.substr(2)));
}

void CheckFinite(const WeightView& weight, const std::string& module, ThreadPool& pool) {
  const bool is_packed = std::holds_alternative<PackedView>(weight);
  const TensorView& values =
      is_packed ? std::get<PackedView>(weight).scales : std::get<TensorView>(weight);
  if (!IsFloat(values.dtype())) return;

  constexpr int64_t kChunk = int64_t{1} << 18;
  const int64_t total = values.num_elements();
  std::atomic<int64_t> first_bad = total;
  pool.ParallelFor((total + kChunk - 1) / kChunk, [&](int64_t chunk, int /*thread*/) {
    const int64_t begin = chunk * kChunk;
    const TensorView part(values.data() + begin * DTypeSize(values.dtype()), values.dtype(),
                          Shape{std::min(kChunk, total - begin)});
    const int64_t bad = FindNonFinite(part);
    if (bad < 0) return;
    int64_t known = first_bad.load();
    while (begin + bad < known && !first_bad.compare_exchange_weak(known, begin + bad)) {
    }
  });
  const int64_t bad = first_bad.load();
  if (bad == total) return;

  const Shape& shape = values.shape();
  const int64_t cols = shape[shape.rank() - 1];
  const TensorView element(values.data() + bad * DTypeSize(values.dtype()), values.dtype(),
                           Shape{1});
  throw Error(
      ErrorCode::kInvalidData,
      fmt::format("{}.{}: element [{}, {}] is {}, expected finite values; the checkpoint is "
                  "damaged",
                  module, is_packed ? "weight_scale" : "weight", bad / cols, bad % cols,
                  ToFloat(element).front()));
}

std::vector<WeightView> WeightSource::views() const {
  std::vector<WeightView> views;
  for (const WeightPart& part : parts) views.push_back(part.view);
  return views;
}

AttentionWeights LayerWeights::attention() const {
  return {.norm = input_norm.get(),
          .qkv = qkv.get(),
          .qkv_bias = qkv_bias.get(),
          .q_norm = q_norm.get(),
          .k_norm = k_norm.get(),
          .sinks = sinks.get(),
          .out = out.get(),
          .out_bias = out_bias.get()};
}

RouterWeights LayerWeights::routing() const {
  return {.norm = mlp_norm.get(), .router = router.get(), .correction = correction.get()};
}

int64_t LayerWeights::size_bytes() const {
  int64_t bytes = 0;
  for (const auto* weight : {&input_norm, &qkv, &qkv_bias, &q_norm, &k_norm, &sinks, &out,
                             &out_bias, &mlp_norm, &router, &correction, &experts.gate_up,
                             &experts.down, &shared_gate, &shared.gate_up, &shared.down}) {
    bytes += SizeOf(*weight);
  }
  return bytes;
}

std::vector<WeightSource> AllWeights(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  std::vector<WeightSource> sources = {EmbeddingSource(checkpoint)};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    LayerSources of_layer = SourcesOfLayer(checkpoint, layer);
    for (WeightSource* source : {&of_layer.input_norm, &of_layer.qkv, &of_layer.out,
                                 &of_layer.mlp_norm, &of_layer.router}) {
      sources.push_back(std::move(*source));
    }
    for (int64_t expert = 0; expert < config.num_experts; ++expert) {
      ExpertSources of_expert = SourcesOfExperts(checkpoint, layer, expert, expert + 1);
      sources.push_back(std::move(of_expert.gate_up));
      sources.push_back(std::move(of_expert.down));
    }
  }
  sources.push_back(VectorSource(checkpoint, "model.norm"));
  sources.push_back(HeadSource(checkpoint));
  return sources;
}

std::unique_ptr<Weight> LoadWeight(const Checkpoint& checkpoint, const WeightSource& source,
                                   Backend& backend) {
  return backend.Prepare(source.views(), source.role, [&](size_t index) {
    const WeightPart& part = source.parts[index];
    CheckFinite(part.view, part.module, backend.threads());
    Release(checkpoint, part.view);
  });
}

LayerWeights LoadLayerWithoutExperts(const Checkpoint& checkpoint, int64_t layer, Backend& backend,
                                     const PackedWeights* packed) {
  const Loader load{checkpoint, backend, packed};
  const LayerSources sources = SourcesOfLayer(checkpoint, layer);
  LayerWeights weights;
  weights.input_norm = load(sources.input_norm);
  weights.qkv = load(sources.qkv);
  weights.out = load(sources.out);
  weights.mlp_norm = load(sources.mlp_norm);
  weights.router = load(sources.router);
  return weights;
}

ExpertRange LoadExperts(const Checkpoint& checkpoint, int64_t layer, int64_t first, int64_t last,
                        Backend& backend, const PackedWeights* packed) {
  const Loader load{checkpoint, backend, packed};
  const ExpertSources sources = SourcesOfExperts(checkpoint, layer, first, last);
  return {.gate_up = load(sources.gate_up), .down = load(sources.down), .first = first};
}

void WillNeedLayer(const Checkpoint& checkpoint, int64_t layer) {
  const LayerSources layer_sources = SourcesOfLayer(checkpoint, layer);
  const ExpertSources experts =
      SourcesOfExperts(checkpoint, layer, 0, checkpoint.config().num_experts);
  for (const WeightSource* source :
       {&layer_sources.input_norm, &layer_sources.qkv, &layer_sources.out, &layer_sources.mlp_norm,
        &layer_sources.router, &experts.gate_up, &experts.down}) {
    for (const WeightPart& part : source->parts) WillNeed(checkpoint, part.view);
  }
}

LayerWeights LoadLayer(const Checkpoint& checkpoint, int64_t layer, Backend& backend,
                       const PackedWeights* packed) {
  LayerWeights weights = LoadLayerWithoutExperts(checkpoint, layer, backend, packed);
  weights.experts =
      LoadExperts(checkpoint, layer, 0, checkpoint.config().num_experts, backend, packed);
  return weights;
}

int64_t OuterWeights::size_bytes() const {
  return SizeOf(embedding) + SizeOf(final_norm) + SizeOf(head);
}

OuterWeights LoadOuter(const Checkpoint& checkpoint, Backend& backend,
                       const PackedWeights* packed) {
  const Loader load{checkpoint, backend, packed};
  return {.embedding = load(EmbeddingSource(checkpoint)),
          .final_norm = load(VectorSource(checkpoint, "model.norm")),
          .head = load(HeadSource(checkpoint))};
}

}  // namespace nibble
