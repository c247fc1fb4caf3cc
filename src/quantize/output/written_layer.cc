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

  std::unique_ptr<Weight> Load(const std::vector<WeightView>& parts, Role role) const {
    return backend_->Prepare(parts, role, [&](size_t index) { DontNeed(parts[index]); });
  }
  std::unique_ptr<Weight> Dense(const std::string& name, Role role) const {
    return Load({writer_->Read(name)}, role);
  }

  WeightView Linear(const LinearSpec& spec) const {
    if (!plan_->IsQuantized(spec.module)) return writer_->Read(spec.module + ".weight");
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
    return view;
  }

 private:
  void DontNeed(const WeightView& weight) const {
    if (const auto* dense = std::get_if<TensorView>(&weight)) return writer_->DontNeed(*dense);
    const PackedView& packed = std::get<PackedView>(weight);
    writer_->DontNeed(packed.packed);
    writer_->DontNeed(packed.scales);
  }

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
  weights.input_norm = loader.Dense(prefix + ".input_layernorm.weight", Role::kVector);
  weights.mlp_norm = loader.Dense(prefix + ".post_attention_layernorm.weight", Role::kVector);
  weights.router = loader.Dense(mixtral_names::Router(layer) + ".weight", Role::kRouter);
  weights.qkv =
      loader.Load({loader.Linear(linears[0]), loader.Linear(linears[1]), loader.Linear(linears[2])},
                  Role::kQkv);
  weights.out = loader.Load({loader.Linear(linears[3])}, Role::kProjection);
  std::vector<WeightView> gate_up, down;
  for (size_t i = 4; i < linears.size(); i += 3) {  // w1, w2, w3 of each expert
    gate_up.push_back(loader.Linear(linears[i]));
    gate_up.push_back(loader.Linear(linears[i + 2]));
    down.push_back(loader.Linear(linears[i + 1]));
  }
  weights.experts = {loader.Load(gate_up, Role::kGateUp), loader.Load(down, Role::kDown), 0};
  return weights;
}

}  // namespace nibble
