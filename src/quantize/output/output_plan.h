#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_writer.h"
#include "model/tensors.h"
#include "quantize/gptq/gptq.h"
#include "quantize/recipe.h"

namespace nibble {

// The contents of the output, planned before anything is computed: tensors in model order, a unit
// for the embedding, one for each layer, one for the final norm and the head.
class OutputPlan {
 public:
  // Throws kUnsupported naming what cannot be quantized: a group size that does not divide a
  // Linear, a recipe that would quantize routers or the head. What is planned has been compared
  // with ConfigJson() by the rules that the finished output is checked by (model/validate.h).
  // `source` and `recipe` must outlive this.
  OutputPlan(const Checkpoint& source, const Recipe& recipe);

  const std::vector<UnitPlan>& units() const { return units_; }
  static int64_t UnitOfLayer(int64_t layer) { return layer + 1; }

  // The float type of the output, scales and kept tensors alike: the one config.json states, to
  // which transformers casts a model that is loaded with dtype="auto"; where it states none, that
  // of the input's first Linear. bfloat16 takes the place of float32.
  DType dtype() const { return dtype_; }
  // What the input's Linears are stored in.
  DType stored_dtype() const { return stored_dtype_; }

  bool IsQuantized(const std::string& module) const;

  // config.json: the input's document with quantization_config, with dtype() if it states another,
  // and without a tie between tables that differ.
  std::string ConfigJson() const;

  // What a kept tensor of the plan is made from.
  TensorView SourceOf(const TensorPlan& tensor) const;

  // Tensors of the input that the output omits, such as old rotary buffers.
  std::vector<std::string> dropped() const;

 private:
  void AddTensor(UnitPlan& unit, const TensorSpec& tensor) const;
  void CheckAgainstConfig() const;

  const Checkpoint* source_;
  const Recipe* recipe_;
  DType stored_dtype_ = DType::kBF16;
  DType dtype_ = DType::kBF16;
  bool head_is_tied_ = false;
  std::vector<UnitPlan> units_;
};

// The tensors of one unit, in the plan's order. Owns converted copies, borrows the rest from the
// source.
class UnitTensors {
 public:
  explicit UnitTensors(const OutputPlan& plan) : plan_(&plan) {}

  // A kept tensor, which must stay alive, cast to the plan's type if it has another. Throws
  // kInvalidData naming it and the element if a value is not finite, before or after.
  void AddKept(const std::string& name, const TensorView& view);
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
