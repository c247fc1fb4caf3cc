#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_writer.h"
#include "model/weights.h"
#include "quantize/gptq/gptq.h"
#include "quantize/recipe.h"

namespace nibble {

// What the output holds, decided before anything is computed: tensors in model order, a unit for
// the embedding, one for each layer, one for the final norm and the head.
class OutputPlan {
 public:
  // Throws kUnsupported naming what cannot be quantized: a group size that does not divide a
  // Linear, a recipe that would quantize routers or the head. `source` and `recipe` must outlive
  // this.
  OutputPlan(const Checkpoint& source, const Recipe& recipe);

  const std::vector<UnitPlan>& units() const { return units_; }
  static int64_t UnitOfLayer(int64_t layer) { return layer + 1; }

  // The type of the output's scales, and of dense tensors where the input has F32: kept tensors are
  // otherwise copied bit for bit.
  DType dtype() const { return dtype_; }
  bool converts_dense() const { return converts_dense_; }

  bool IsQuantized(const std::string& module) const;

  // config.json: the input's document with quantization_config, and the new type if it changes.
  std::string ConfigJson() const;

  // Tensors the input has and the output leaves out, such as old rotary buffers.
  std::vector<std::string> dropped() const;

 private:
  void AddTensor(UnitPlan& unit, const std::string& name, const Shape& shape, DType dtype) const;
  void AddLinear(UnitPlan& unit, const LinearSpec& spec) const;

  const Checkpoint* source_;
  const Recipe* recipe_;
  DType dtype_ = DType::kBF16;
  bool converts_dense_ = false;
  std::vector<UnitPlan> units_;
};

// The tensors of one unit, in the plan's order. Owns what it does not borrow from the source.
class UnitTensors {
 public:
  explicit UnitTensors(const OutputPlan& plan) : plan_(&plan) {}

  void AddDense(const TensorView& view);             // a copy, or converted where the plan converts
  void AddQuantized(const QuantizedLinear& linear);  // must stay alive

  const std::vector<TensorView>& views() const { return views_; }
  std::string Sha256() const;  // of all bytes in order

 private:
  const OutputPlan* plan_;
  std::vector<Tensor> owned_;
  std::vector<TensorView> views_;
};

// Names of the tensors of a quantized Linear, in the order in which UnitTensors adds them.
struct PackedNames {
  explicit PackedNames(const std::string& module);
  std::string packed, scale, shape, zero_point, g_idx;
};

}  // namespace nibble
