#include "model/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <optional>
#include <utility>

#include "model/packed_weights.h"
#include "nibble/error.h"

namespace nibble {
namespace {

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

// The sources of a layer, or of what is outside of the layers, by the parts they hold.
class Sources {
 public:
  Sources(std::vector<TensorSpec> tensors, std::function<WeightView(const TensorSpec&)> find)
      : tensors_(std::move(tensors)), find_(std::move(find)) {}

  // The parts of all tensors that stand in these places, in their order; without parts if there are
  // none.
  WeightSource Of(Role role, std::initializer_list<Part> places) const {
    WeightSource source{role, {}};
    for (const Part place : places) {
      for (const TensorSpec& tensor : tensors_) {
        if (tensor.part == place) source.parts.push_back(Read(tensor));
      }
    }
    return source;
  }

  // Of experts [first, last): for each in turn its tensors in these places.
  WeightSource OfExperts(Role role, std::initializer_list<Part> places, int64_t first,
                         int64_t last) const {
    WeightSource source{role, {}};
    for (int64_t expert = first; expert < last; ++expert) {
      for (const Part place : places) {
        for (const TensorSpec& tensor : tensors_) {
          if (tensor.part == place && (tensor.expert == expert || tensor.expert < 0)) {
            source.parts.push_back(Read(tensor));
          }
        }
      }
    }
    return source;
  }

 private:
  WeightPart Read(const TensorSpec& tensor) const { return {tensor.module, find_(tensor)}; }

  std::vector<TensorSpec> tensors_;
  std::function<WeightView(const TensorSpec&)> find_;
};

// All of a layer but its routed experts, in the order in which a token meets them.
std::vector<std::pair<std::unique_ptr<Weight> LayerWeights::*, WeightSource>> SourcesOfLayer(
    const Sources& of) {
  return {
      {&LayerWeights::input_norm, of.Of(Role::kVector, {Part::kInputNorm})},
      {&LayerWeights::qkv, of.Of(Role::kQkv, {Part::kQ, Part::kK, Part::kV})},
      {&LayerWeights::qkv_bias, of.Of(Role::kQkvBias, {Part::kQBias, Part::kKBias, Part::kVBias})},
      {&LayerWeights::q_norm, of.Of(Role::kVector, {Part::kQNorm})},
      {&LayerWeights::k_norm, of.Of(Role::kVector, {Part::kKNorm})},
      {&LayerWeights::sinks, of.Of(Role::kSinks, {Part::kSinks})},
      {&LayerWeights::out, of.Of(Role::kProjection, {Part::kOut})},
      {&LayerWeights::out_bias, of.Of(Role::kOutBias, {Part::kOutBias})},
      {&LayerWeights::mlp_norm, of.Of(Role::kVector, {Part::kMlpNorm})},
      {&LayerWeights::router, of.Of(Role::kRouter, {Part::kRouter})},
      {&LayerWeights::correction, of.Of(Role::kVector, {Part::kCorrection})},
      {&LayerWeights::shared_gate, of.Of(Role::kRouter, {Part::kSharedScale})},
      {&LayerWeights::shared_gate_up, of.Of(Role::kGateUp, {Part::kSharedGate, Part::kSharedUp})},
      {&LayerWeights::shared_down, of.Of(Role::kDown, {Part::kSharedDown})}};
}

struct ExpertSources {
  WeightSource gate_up, down;
};

ExpertSources SourcesOfExperts(const Sources& of, int64_t first, int64_t last) {
  return {of.OfExperts(Role::kGateUp, {Part::kGate, Part::kUp}, first, last),
          of.OfExperts(Role::kDown, {Part::kDown}, first, last)};
}

int64_t NumExperts(const std::vector<TensorSpec>& tensors) {
  int64_t last = 0;  // the only MLP of a dense layer is expert 0
  for (const TensorSpec& tensor : tensors) last = std::max(last, tensor.expert);
  return last + 1;
}

Sources SourcesIn(const Checkpoint& checkpoint, std::vector<TensorSpec> tensors) {
  return {std::move(tensors),
          [&checkpoint](const TensorSpec& tensor) { return FindWeight(checkpoint, tensor); }};
}

Sources LayerSources(const Checkpoint& checkpoint, int64_t layer) {
  return SourcesIn(checkpoint, LayerTensors(checkpoint.config(), layer));
}

WeightSource OuterSource(const Checkpoint& checkpoint, Part part, Role role) {
  std::vector<TensorSpec> tensors = TensorsOf(checkpoint.config());
  std::erase_if(tensors, [&](const TensorSpec& tensor) { return tensor.part != part; });
  return SourcesIn(checkpoint, std::move(tensors)).Of(role, {part});
}

// Everything but the routed experts.
template <typename Load>
LayerWeights LoadWithoutExperts(const Sources& sources, const Load& load) {
  LayerWeights weights;
  for (const auto& [member, source] : SourcesOfLayer(sources)) {
    if (!source.parts.empty()) weights.*member = load(source);
  }
  return weights;
}

template <typename Load>
ExpertRange LoadRange(const Sources& sources, int64_t first, int64_t last, const Load& load) {
  const ExpertSources experts = SourcesOfExperts(sources, first, last);
  return {.gate_up = load(experts.gate_up), .down = load(experts.down), .first = first};
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
                             &experts.down, &shared_gate, &shared_gate_up, &shared_down}) {
    bytes += SizeOf(*weight);
  }
  return bytes;
}

std::vector<WeightSource> AllWeights(const Checkpoint& checkpoint) {
  const ModelSpec spec = SpecOf(checkpoint.config());
  std::vector<WeightSource> sources = {OuterSource(checkpoint, Part::kEmbedding, Role::kEmbedding)};
  const auto add = [&sources](WeightSource source) {
    if (!source.parts.empty()) sources.push_back(std::move(source));
  };
  for (int64_t layer = 0; layer < spec.num_layers(); ++layer) {
    const Sources of_layer = LayerSources(checkpoint, layer);
    for (auto& [member, source] : SourcesOfLayer(of_layer)) add(std::move(source));
    for (int64_t expert = 0; expert < spec.layer(layer).router.num_groups(); ++expert) {
      ExpertSources of_expert = SourcesOfExperts(of_layer, expert, expert + 1);
      add(std::move(of_expert.gate_up));
      add(std::move(of_expert.down));
    }
  }
  add(OuterSource(checkpoint, Part::kFinalNorm, Role::kVector));
  add(OuterSource(checkpoint, Part::kHead, Role::kHead));
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

LayerWeights LoadLayerFrom(
    const std::vector<TensorSpec>& tensors,
    const std::function<WeightView(const TensorSpec& tensor)>& find,
    const std::function<std::unique_ptr<Weight>(const WeightSource& source)>& load) {
  const Sources sources(tensors, find);
  LayerWeights weights = LoadWithoutExperts(sources, load);
  weights.experts = LoadRange(sources, 0, NumExperts(tensors), load);
  return weights;
}

LayerWeights LoadLayerWithoutExperts(const Checkpoint& checkpoint, int64_t layer, Backend& backend,
                                     const PackedWeights* packed) {
  return LoadWithoutExperts(LayerSources(checkpoint, layer), Loader{checkpoint, backend, packed});
}

ExpertRange LoadExperts(const Checkpoint& checkpoint, int64_t layer, int64_t first, int64_t last,
                        Backend& backend, const PackedWeights* packed) {
  return LoadRange(LayerSources(checkpoint, layer), first, last,
                   Loader{checkpoint, backend, packed});
}

void WillNeedLayer(const Checkpoint& checkpoint, int64_t layer) {
  for (const TensorSpec& tensor : LayerTensors(checkpoint.config(), layer)) {
    WillNeed(checkpoint, FindWeight(checkpoint, tensor));
  }
}

LayerWeights LoadLayer(const Checkpoint& checkpoint, int64_t layer, Backend& backend,
                       const PackedWeights* packed) {
  return LoadLayerFrom(
      LayerTensors(checkpoint.config(), layer),
      [&](const TensorSpec& tensor) { return FindWeight(checkpoint, tensor); },
      Loader{checkpoint, backend, packed});
}

int64_t OuterWeights::size_bytes() const {
  return SizeOf(embedding) + SizeOf(final_norm) + SizeOf(head);
}

OuterWeights LoadOuter(const Checkpoint& checkpoint, Backend& backend,
                       const PackedWeights* packed) {
  const Loader load{checkpoint, backend, packed};
  return {.embedding = load(OuterSource(checkpoint, Part::kEmbedding, Role::kEmbedding)),
          .final_norm = load(OuterSource(checkpoint, Part::kFinalNorm, Role::kVector)),
          .head = load(OuterSource(checkpoint, Part::kHead, Role::kHead))};
}

}  // namespace nibble
