#include "quantize/output/written_layer.h"

namespace nibble {
namespace {

// A tensor of the layer as the output holds it.
WeightView Read(const CheckpointWriter& writer, const OutputPlan& plan, const Recipe& recipe,
                const TensorSpec& tensor) {
  if (tensor.tap == Tap::kNone || !plan.IsQuantized(tensor.module)) {
    return writer.Read(tensor.module + ".weight");
  }
  const PackedNames names(tensor.module);
  PackedView view;
  view.bits = recipe.bits;
  view.rows = tensor.rows;
  view.cols = tensor.cols;
  view.group_size = recipe.GroupSize(tensor.cols);
  view.packed = writer.Read(names.packed);
  view.scales = writer.Read(names.scale);
  if (!recipe.symmetric) view.zero_point = writer.Read(names.zero_point);
  if (recipe.act_order == ActOrder::kGroup) view.g_idx = writer.Read(names.g_idx);
  return view;
}

void DontNeed(const CheckpointWriter& writer, const WeightView& weight) {
  if (const auto* dense = std::get_if<TensorView>(&weight)) return writer.DontNeed(*dense);
  const PackedView& packed = std::get<PackedView>(weight);
  writer.DontNeed(packed.packed);
  writer.DontNeed(packed.scales);
}

}  // namespace

LayerWeights LoadWrittenLayer(const CheckpointWriter& writer, const OutputPlan& plan,
                              const ModelConfig& config, const Recipe& recipe, int64_t layer,
                              Backend& backend) {
  return LoadLayerFrom(
      LayerTensors(config, layer),
      [&](const TensorSpec& tensor) { return Read(writer, plan, recipe, tensor); },
      [&](const WeightSource& source) {
        return backend.Prepare(source.views(), source.role,
                               [&](size_t part) { DontNeed(writer, source.parts[part].view); });
      });
}

}  // namespace nibble
