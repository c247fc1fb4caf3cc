#include "quantize/output/output_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/math.h"
#include "base/sha256.h"
#include "model/validate.h"
#include "nibble/error.h"

namespace nibble {
namespace {

int64_t PackedCount(int64_t count, int bits) { return CeilDiv(count * bits, 32); }

// "element [3, 5] is nan".
std::string Element(const TensorView& view, int64_t index) {
  const TensorView element(view.data() + index * DTypeSize(view.dtype()), view.dtype(), Shape{1});
  const int64_t cols = view.shape()[view.shape().rank() - 1];
  const std::string place = view.shape().rank() == 1
                                ? fmt::format("[{}]", index)
                                : fmt::format("[{}, {}]", index / cols, index % cols);
  return fmt::format("element {} is {}", place, ToFloat(element).front());
}

// A piece at a time: as float the embedding of a large model takes a gigabyte.
Tensor Cast(const TensorView& view, DType dtype) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  Tensor result(dtype, view.shape());
  for (int64_t first = 0; first < view.num_elements(); first += kPiece) {
    const Shape piece{std::min(kPiece, view.num_elements() - first)};
    const TensorView values(view.data() + first * DTypeSize(view.dtype()), view.dtype(), piece);
    const Tensor cast = FromFloat(ToFloat(values), dtype, piece);
    std::memcpy(result.data() + first * DTypeSize(dtype), cast.view().data(),
                cast.view().bytes().size());
  }
  return result;
}

Error Refused(const ModelConfig& config, const TensorSpec& tensor) {
  if (tensor.part == Part::kHead) {
    return Error(ErrorCode::kUnsupported,
                 fmt::format("{}: the recipe would quantize the head, which nibble never does; add "
                             "{} to ignore",
                             tensor.module, tensor.module));
  }
  return Error(ErrorCode::kUnsupported,
               fmt::format("{}: the recipe would quantize this router, which nibble never does; "
                           "add '{}' to ignore",
                           tensor.module, FindFamily(config).router_hint));
}

const char* WordOf(DType dtype) { return dtype == DType::kF16 ? "float16" : "bfloat16"; }

}  // namespace

PackedNames::PackedNames(const std::string& module)
    : packed(module + ".weight_packed"),
      scale(module + ".weight_scale"),
      shape(module + ".weight_shape"),
      zero_point(module + ".weight_zero_point"),
      g_idx(module + ".weight_g_idx") {}

OutputPlan::OutputPlan(const Checkpoint& source, const Recipe& recipe)
    : source_(&source), recipe_(&recipe) {
  const ModelConfig& config = source.config();
  const std::vector<TensorSpec> tensors = TensorsOf(config);
  const auto linear = std::ranges::find_if(
      tensors, [](const TensorSpec& tensor) { return tensor.tap != Tap::kNone; });
  stored_dtype_ = FindDense(source, *linear).dtype();
  dtype_ = config.dtype.value_or(stored_dtype_) == DType::kF16 ? DType::kF16 : DType::kBF16;
  head_is_tied_ = IsHeadTied(source);

  units_.push_back({"embedding", {}});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    units_.push_back({LayerModule(FindFamily(config), layer), {}});
  }
  units_.push_back({"head", {}});
  for (const TensorSpec& tensor : tensors) {
    if (tensor.tap == Tap::kNone && tensor.is_linear() && IsTarget(recipe, tensor.module)) {
      throw Refused(config, tensor);
    }
    if (tensor.part == Part::kHead && head_is_tied_) continue;
    AddTensor(tensor.layer >= 0                 ? units_[UnitOfLayer(tensor.layer)]
              : tensor.part == Part::kEmbedding ? units_.front()
                                                : units_.back(),
              tensor);
  }
  CheckAgainstConfig();
}

bool OutputPlan::IsQuantized(const std::string& module) const { return IsTarget(*recipe_, module); }

TensorView OutputPlan::SourceOf(const TensorPlan& tensor) const {
  const TensorSpec embedding = EmbeddingOf(source_->config());
  return tensor.name == embedding.module + ".weight" ? FindDense(*source_, embedding)
                                                     : source_->Get(tensor.name, tensor.shape);
}

// A run of hours must not end in what was clear at its start.
void OutputPlan::CheckAgainstConfig() const {
  std::vector<TensorPlan> tensors;
  for (const UnitPlan& unit : units_) {
    tensors.insert(tensors.end(), unit.tensors.begin(), unit.tensors.end());
  }
  const std::string where = "config.json of the output";
  const Json document = ParseJson(ConfigJson(), where);
  const ValidationReport report =
      ValidatePlan(ParseModelConfig(document, where), ParseQuantConfig(document, where), tensors);
  if (report.verdict() == Grade::kOk) return;
  throw Error(ErrorCode::kInternal,
              fmt::format("the output as planned from {} contradicts its own configuration: {}",
                          source_->directory().string(), report.Remarks()));
}

void OutputPlan::AddTensor(UnitPlan& unit, const TensorSpec& spec) const {
  FindDense(*source_, spec);  // or it is missed now
  if (spec.tap == Tap::kNone || !IsQuantized(spec.module)) {
    unit.tensors.push_back({spec.module + ".weight", dtype_, spec.shape()});
    return;
  }
  const int64_t num_groups = recipe_->NumGroups(spec.module, spec.cols);
  const PackedNames names(spec.module);
  const int bits = recipe_->bits;
  unit.tensors.push_back(
      {names.packed, DType::kI32, Shape{spec.rows, PackedCount(spec.cols, bits)}});
  unit.tensors.push_back({names.scale, dtype_, Shape{spec.rows, num_groups}});
  unit.tensors.push_back({names.shape, DType::kI64, Shape{2}});
  if (!recipe_->symmetric) {
    unit.tensors.push_back(
        {names.zero_point, DType::kI32, Shape{PackedCount(spec.rows, bits), num_groups}});
  }
  if (recipe_->act_order == ActOrder::kGroup) {
    unit.tensors.push_back({names.g_idx, DType::kI32, Shape{spec.cols}});
  }
}

std::string OutputPlan::ConfigJson() const {
  QuantConfig config;
  config.bits = recipe_->bits;
  config.group_size = recipe_->group_size;
  config.symmetric = recipe_->symmetric;
  config.act_order = recipe_->act_order;
  config.observer = Name(recipe_->observer);
  for (const TensorSpec& spec : TensorsOf(source_->config())) {
    if (!spec.is_linear()) continue;
    if (spec.tap == Tap::kNone || !IsQuantized(spec.module)) config.ignore.push_back(spec.module);
  }
  Json document = source_->config().raw;
  if (source_->config().dtype != dtype_) {
    if (document.contains("dtype")) document["dtype"] = WordOf(dtype_);
    if (document.contains("torch_dtype") || !document.contains("dtype")) {
      document["torch_dtype"] = WordOf(dtype_);  // which both versions of transformers read
    }
  }
  if (source_->config().tie_word_embeddings && !head_is_tied_) {
    document["tie_word_embeddings"] = false;
  }
  document["quantization_config"] = QuantConfigToJson(config);
  return document.dump(2) + "\n";
}

std::vector<std::string> OutputPlan::dropped() const {
  std::vector<const std::byte*> used;
  for (const TensorSpec& tensor : TensorsOf(source_->config())) {
    used.push_back(FindDense(*source_, tensor).data());
  }
  std::sort(used.begin(), used.end());
  std::vector<std::string> dropped;
  for (const std::string& name : source_->names()) {
    const TensorView view = source_->Get(name);
    const auto first = std::lower_bound(used.begin(), used.end(), view.data());
    if (first == used.end() || *first >= view.data() + std::max<int64_t>(view.size_bytes(), 1)) {
      dropped.push_back(name);
    }
  }
  return dropped;
}

void UnitTensors::AddKept(const std::string& name, const TensorView& view) {
  if (const int64_t bad = FindNonFinite(view); bad >= 0) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: {}, expected finite values; the checkpoint is damaged", name,
                            Element(view, bad)));
  }
  if (view.dtype() == plan_->dtype()) {
    views_.push_back(view);
    return;
  }
  owned_.push_back(Cast(view, plan_->dtype()));
  views_.push_back(owned_.back().view());
  if (const int64_t bad = FindNonFinite(views_.back()); bad >= 0) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: {}, too large for the {} that config.json states; change its "
                            "torch_dtype to bfloat16",
                            name, Element(view, bad), WordOf(plan_->dtype())));
  }
}

void UnitTensors::AddQuantized(const QuantizedLinear& linear) {
  const PackedTensor& packed = linear.packed;
  views_.push_back(packed.packed.view());
  views_.push_back(packed.scales.view());
  owned_.push_back(Tensor::FromVector<int64_t>({packed.rows, packed.cols}, Shape{2}));
  views_.push_back(owned_.back().view());
  if (packed.zero_point) views_.push_back(packed.zero_point->view());
  if (packed.g_idx) views_.push_back(packed.g_idx->view());
}

std::string UnitTensors::Sha256() const {
  Sha256Hasher hasher;
  for (const TensorView& view : views_) hasher.Add(view.bytes());
  return hasher.Finish();
}

}  // namespace nibble
