#include "quantize/output/written_layer.h"

#include <string>
#include <vector>

namespace nibble {
namespace {

class Loader {
 public:
  Loader(const CheckpointWriter& writer, const OutputPlan& plan, const Recipe& recipe,
         Backend& backend)
      : writer_(&writer), plan_(&plan), recipe_(&recipe), backend_(&backend) {}

  std::unique_ptr<Weight> Dense(const std::string& name, Role role) const {
    const TensorView view = writer_->Read(name);
    auto weight = backend_->Prepare(view, role);
    writer_->DontNeed(view);
    return weight;
  }

  std::unique_ptr<Weight> Linear(const LinearSpec& spec) const {
    if (!plan_->IsQuantized(spec.module)) return Dense(spec.module + ".weight", Role::kProjection);
    const PackedNames names(spec.module);
    PackedView view;
    view.bits = recipe_->bits;
    view.rows = spec.rows;
    view.cols = spec.cols;
    view.group_size = recipe_->GroupSize(spec.cols);
    view.packed = writer_->Read(names.packed);
    view.scales = writer_->Read(names.scale);
    if (!recipe_->symmetric) view.zero_point = writer_->Read(names.zero_point);
    if (recipe_->act_order == ActOrder::kGroup) view.g_idx = writer_->Read(names.g_idx);
    auto weight = backend_->Prepare(view, Role::kProjection);
    writer_->DontNeed(view.packed);
    writer_->DontNeed(view.scales);
    return weight;
  }

 private:
  const CheckpointWriter* writer_;
  const OutputPlan* plan_;
  const Recipe* recipe_;
  Backend* backend_;
};

}  // namespace

LayerWeights LoadWrittenLayer(const CheckpointWriter& writer, const OutputPlan& plan,
                              const ModelConfig& config, const Recipe& recipe, int64_t layer,
                              Backend& backend) {
  const Loader loader(writer, plan, recipe, backend);
  const std::vector<LinearSpec> linears = LayerLinears(config, layer);
  const std::string prefix = mixtral_names::Layer(layer);
  LayerWeights weights;
  weights.input_norm = loader.Dense(prefix + ".input_layernorm.weight", Role::kNorm);
  weights.post_attention_norm =
      loader.Dense(prefix + ".post_attention_layernorm.weight", Role::kNorm);
  weights.router = loader.Dense(mixtral_names::Router(layer) + ".weight", Role::kRouter);
  weights.q = loader.Linear(linears[0]);
  weights.k = loader.Linear(linears[1]);
  weights.v = loader.Linear(linears[2]);
  weights.o = loader.Linear(linears[3]);
  for (size_t i = 4; i < linears.size(); i += 3) {  // w1, w2, w3 of each expert
    LayerWeights::Expert expert;
    expert.gate = loader.Linear(linears[i]);
    expert.down = loader.Linear(linears[i + 1]);
    expert.up = loader.Linear(linears[i + 2]);
    weights.experts.push_back(std::move(expert));
  }
  return weights;
}

}  // namespace nibble
