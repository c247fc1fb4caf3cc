#include "model/validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "checkpoint/module_pattern.h"
#include "model/tensors.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// Collects offenders of one rule and turns them into a finding: how many, and by name the first of
// those that matter most.
class Rule {
 public:
  Rule(ValidationReport& report, std::string name, Grade failed = Grade::kFails)
      : report_(report), name_(std::move(name)), failed_(failed) {}

  void Check(bool ok, const std::string& offence) { Note(ok ? Grade::kOk : failed_, offence); }

  void Note(Grade grade, const std::string& offence) {
    ++checked_;
    if (grade == Grade::kOk) return;
    ++offences_;
    if (grade <= worst_) return;
    worst_ = grade;
    first_ = offence;
  }

  // `summary` is the detail when all is well.
  void Close(const std::string& summary) {
    std::string detail = summary;
    if (offences_ > 0) {
      detail = first_ + (offences_ > 1 ? fmt::format(" (and {} more)", offences_ - 1) : "");
    }
    report_.findings.push_back({worst_, name_, detail});
  }

  int64_t checked() const { return checked_; }

 private:
  ValidationReport& report_;
  std::string name_;
  Grade failed_;
  Grade worst_ = Grade::kOk;
  int64_t checked_ = 0;
  int64_t offences_ = 0;
  std::string first_;
};

// A tensor as it is stored, or will be.
struct Stored {
  std::string name;
  std::string dtype;
  Shape shape;
};
using StoredTensors = std::map<std::string, Stored>;  // by published name

// Which Linears quantization_config means. What patterns mean that nibble does not evaluate is left
// to the tensors: they tell whether a Linear is quantized.
class Scheme {
 public:
  Scheme(const std::optional<QuantConfig>& quant, const StoredTensors& stored)
      : is_there_(quant.has_value()), stored_(&stored) {
    if (!quant) return;
    ignore_ = Understood(quant->ignore, ignore_is_clear_);
    targets_ = Understood(quant->targets, targets_are_clear_);
    all_linears_ =
        std::find(quant->targets.begin(), quant->targets.end(), "Linear") != quant->targets.end();
  }

  bool Ignores(const std::string& module) const {
    return MatchesAny(ignore_, module) || (!ignore_is_clear_ && !IsPacked(module));
  }

  bool Targets(const std::string& module) const {
    return all_linears_ || MatchesAny(targets_, module) ||
           (!targets_are_clear_ && IsPacked(module));
  }

  bool Quantizes(const std::string& module) const {
    return is_there_ && Targets(module) && !Ignores(module);
  }

  // Why patterns could not be evaluated.
  const std::vector<std::string>& unclear() const { return unclear_; }

 private:
  std::vector<ModulePattern> Understood(const std::vector<std::string>& texts, bool& all) {
    std::vector<ModulePattern> patterns;
    for (const std::string& text : texts) {
      try {
        patterns.emplace_back(text);
      } catch (const Error& error) {
        all = false;
        unclear_.emplace_back(error.what());
      }
    }
    return patterns;
  }

  bool IsPacked(const std::string& module) const {
    return stored_->contains(module + ".weight_packed");
  }

  bool is_there_;
  const StoredTensors* stored_;
  std::vector<ModulePattern> ignore_;
  std::vector<ModulePattern> targets_;
  bool ignore_is_clear_ = true;
  bool targets_are_clear_ = true;
  bool all_linears_ = false;
  std::vector<std::string> unclear_;
};

struct Expected {
  Shape shape;
  std::vector<std::string_view> types;           // as it should be
  std::vector<std::string_view> converted = {};  // what readers make that of without a word
};

std::vector<std::string_view> Floats() {
  return {DTypeName(DType::kBF16), DTypeName(DType::kF16), DTypeName(DType::kF32)};
}

// The tensors that config.json and quantization_config promise, by name.
std::map<std::string, Expected> ExpectedTensors(const ModelConfig& config,
                                                const std::optional<QuantConfig>& quant,
                                                const Scheme& scheme) {
  std::map<std::string, Expected> expected;
  const std::string_view int32 = DTypeName(DType::kI32);
  for (const TensorSpec& linear : TensorsOf(config)) {
    if (!linear.is_linear() || !scheme.Quantizes(linear.module)) {
      expected[linear.module + ".weight"] = {linear.shape(), Floats()};
      continue;
    }
    const int64_t group = quant->group_size < 0 ? linear.cols : quant->group_size;
    const int64_t codes_per_word = 32 / quant->bits;
    const auto words = [&](int64_t codes) { return (codes + codes_per_word - 1) / codes_per_word; };
    const int64_t groups = linear.cols / group;
    expected[linear.module + ".weight_packed"] = {Shape({linear.rows, words(linear.cols)}),
                                                  {int32}};
    expected[linear.module + ".weight_scale"] = {
        Shape({linear.rows, groups}),
        config.dtype ? std::vector{DTypeName(*config.dtype)} : Floats(), Floats()};
    expected[linear.module + ".weight_shape"] = {Shape({2}), {DTypeName(DType::kI64)}, {int32}};
    if (!quant->symmetric) {
      expected[linear.module + ".weight_zero_point"] = {Shape({words(linear.rows), groups}),
                                                        {int32}};
    }
    if (quant->act_order == ActOrder::kGroup) {
      expected[linear.module + ".weight_g_idx"] = {Shape({linear.cols}), {int32}};
    }
  }
  return expected;
}

// Tensors that vLLM knows without a place for them: it skips them, or reads them for its cache.
bool IsPassedOver(std::string_view name) {
  static constexpr std::array kSuffixes = {".rotary_emb.inv_freq",
                                           ".rotary_emb.cos_cached",
                                           ".rotary_emb.sin_cached",
                                           ".k_scale",
                                           ".v_scale",
                                           ".q_scale",
                                           ".kv_scale",
                                           ".k_proj.output_scale",
                                           ".v_proj.output_scale",
                                           ".k_zero_point",
                                           ".v_zero_point"};
  return std::any_of(kSuffixes.begin(), kSuffixes.end(),
                     [&](const char* suffix) { return name.ends_with(suffix); });
}

bool Contains(const std::vector<std::string_view>& types, const std::string& type) {
  return std::find(types.begin(), types.end(), type) != types.end();
}

// Names, types and shapes.
void CheckHeaders(const ModelConfig& config, const std::optional<QuantConfig>& quant,
                  const StoredTensors& stored, const Scheme& scheme, ValidationReport& report) {
  const std::map<std::string, Expected> expected = ExpectedTensors(config, quant, scheme);

  Rule missing(report, "every promised tensor is there");
  const std::string embedding = EmbeddingOf(config).module + ".weight";
  const std::string head = HeadOf(config).module + ".weight";
  const bool has_table = stored.contains(embedding) || stored.contains(head);
  for (const auto& [name, tensor] : expected) {
    const bool is_table = name == head || name == embedding;
    const bool tied = is_table && has_table && config.tie_word_embeddings;
    missing.Check(tied || stored.contains(name), name + " is missing");
  }
  missing.Close(fmt::format("{} tensors", missing.checked()));

  Rule extra(report, "no tensor the configs do not promise");
  for (const auto& [name, tensor] : stored) {
    const Grade grade = expected.contains(name) ? Grade::kOk
                        : IsPassedOver(name)    ? Grade::kUnusual
                                                : Grade::kFails;
    extra.Note(grade, tensor.name + " is unexpected");
  }
  extra.Close(fmt::format("{} tensors", extra.checked()));

  Rule types(report, "types and shapes");
  for (const auto& [name, tensor] : stored) {
    const auto wanted = expected.find(name);
    if (wanted == expected.end()) continue;
    const auto& [shape, wanted_types, converted] = wanted->second;
    const bool as_promised = Contains(wanted_types, tensor.dtype);
    const Grade grade = tensor.shape != shape               ? Grade::kFails
                        : as_promised                       ? Grade::kOk
                        : Contains(converted, tensor.dtype) ? Grade::kUnusual
                                                            : Grade::kFails;
    types.Note(grade, fmt::format("{}: expected {} {}, found {} {}", tensor.name,
                                  fmt::join(wanted_types, " or "), shape.ToString(), tensor.dtype,
                                  tensor.shape.ToString()));
  }
  types.Close(fmt::format("{} tensors", types.checked()));

  if (!quant) return;
  Rule groups(report, "groups divide the columns");
  for (const TensorSpec& linear : TensorsOf(config)) {
    if (!linear.is_linear() || !scheme.Quantizes(linear.module)) continue;
    const int64_t group = quant->group_size < 0 ? linear.cols : quant->group_size;
    groups.Check(linear.cols % group == 0,
                 fmt::format("{}: {} columns, groups of {}", linear.module, linear.cols, group));
  }
  groups.Close(fmt::format("{} Linears", groups.checked()));
}

// Values of the scales, and of what weight_shape repeats. `stored` has the types that readers take.
void CheckValues(const Checkpoint& checkpoint, const StoredTensors& stored,
                 ValidationReport& report) {
  Rule scales(report, "scales are finite and positive", Grade::kDiffers);
  Rule shapes(report, "weight_shape gives the unpacked shape", Grade::kDiffers);
  for (const TensorSpec& linear : TensorsOf(checkpoint.config())) {
    if (const auto scale = stored.find(linear.module + ".weight_scale"); scale != stored.end()) {
      const TensorView view = checkpoint.Get(scale->second.name);
      const std::vector<float> values =
          IsFloat(view.dtype()) ? ToFloat(view) : std::vector<float>();
      const auto bad = std::find_if(values.begin(), values.end(),
                                    [](float s) { return !(std::isfinite(s) && s > 0.0f); });
      scales.Check(bad == values.end(),
                   bad == values.end()
                       ? ""
                       : fmt::format("{}: scale {} at index {} is not a positive number",
                                     scale->second.name, *bad, bad - values.begin()));
    }
    if (const auto entry = stored.find(linear.module + ".weight_shape"); entry != stored.end()) {
      const TensorView view = checkpoint.Get(entry->second.name);
      const bool readable = view.dtype() == DType::kI64 || view.dtype() == DType::kI32;
      if (!readable || view.shape() != Shape{2}) continue;  // reported with the types
      const Shape expected{linear.rows, linear.cols};
      const Shape found = ReadWeightShape(view);
      shapes.Check(found == expected, fmt::format("{}: expected {}, found {}", entry->second.name,
                                                  expected.ToString(), found.ToString()));
    }
  }
  scales.Close(fmt::format("{} Linears", scales.checked()));
  shapes.Close(fmt::format("{} Linears", shapes.checked()));
}

// What the index says and the shards hold. vLLM reads every tensor of a shard, listed or not.
void CheckIndex(const Checkpoint& checkpoint, ValidationReport& report) {
  const std::vector<std::string> lost = checkpoint.lost();
  const std::vector<std::string> unlisted = checkpoint.unlisted();
  Rule agreement(report, "index and shards agree");
  for (const std::string& name : lost) {
    agreement.Note(Grade::kUnusual, checkpoint.Disagreement(name).value_or(name));
  }
  for (const std::string& name : unlisted) {
    const Grade grade = IsPassedOver(name) ? Grade::kUnusual : Grade::kFails;
    agreement.Note(grade, checkpoint.Disagreement(name).value_or(name));
  }
  if (agreement.checked() > 0) agreement.Close("");
  if (const std::optional<int64_t> declared = checkpoint.declared_bytes()) {
    Rule size(report, "the index's total_size is the sum of its tensors", Grade::kUnusual);
    size.Check(*declared == checkpoint.total_bytes(),
               fmt::format("expected {}, found {}", checkpoint.total_bytes(), *declared));
    size.Close(fmt::format("{} bytes", *declared));
  }
}

// By published name: experts may go under the names that llm-compressor gives them.
StoredTensors StoredOf(const Checkpoint& checkpoint) {
  std::map<std::string, std::string> published;  // module → its published name
  for (const TensorSpec& tensor : TensorsOf(checkpoint.config())) {
    if (tensor.expert < 0) continue;
    published[Spellings(checkpoint.config(), tensor)[1]] = tensor.module;
  }
  StoredTensors stored;
  for (const std::string& name : checkpoint.names()) {
    const TensorInfo& info = checkpoint.Info(name);
    const size_t dot = std::min(name.rfind('.'), name.size());
    const auto other = published.find(name.substr(0, dot));
    stored[other == published.end() ? name : other->second + name.substr(dot)] = {name, info.dtype,
                                                                                  info.shape};
  }
  return stored;
}

}  // namespace

const char* Name(Grade grade) {
  switch (grade) {
    case Grade::kOk:
      return "ok";
    case Grade::kUnusual:
      return "unusual";
    case Grade::kDiffers:
      return "differs";
    case Grade::kFails:
      return "fails";
  }
  return "?";
}

Grade ValidationReport::verdict() const {
  Grade worst = Grade::kOk;
  for (const Finding& finding : findings) worst = std::max(worst, finding.grade);
  return worst;
}

std::string ValidationReport::Remarks() const {
  std::string text;
  for (const Finding& finding : findings) {
    if (finding.grade == Grade::kOk) continue;
    text += (text.empty() ? "" : "\n") + finding.rule + ": " + finding.detail;
  }
  return text;
}

ValidationReport ValidatePlan(const ModelConfig& config, const std::optional<QuantConfig>& quant,
                              const std::vector<TensorPlan>& tensors) {
  StoredTensors stored;
  for (const TensorPlan& tensor : tensors) {
    stored[tensor.name] = {tensor.name, std::string(DTypeName(tensor.dtype)), tensor.shape};
  }
  ValidationReport report;
  CheckHeaders(config, quant, stored, Scheme(quant, stored), report);
  return report;
}

ValidationReport ValidateStructure(const Checkpoint& checkpoint) {
  ValidationReport report;
  const ModelConfig& config = checkpoint.config();
  const std::optional<QuantConfig>& quant = checkpoint.quant_config();
  const StoredTensors stored = StoredOf(checkpoint);
  const Scheme scheme(quant, stored);
  CheckHeaders(config, quant, stored, scheme, report);
  const bool readable = report.passed();
  CheckIndex(checkpoint, report);
  if (quant) CheckValues(checkpoint, stored, report);
  if (config.tie_word_embeddings && readable) {
    Rule tied(report, "tied embeddings are one tensor", Grade::kDiffers);
    tied.Check(IsHeadTied(checkpoint),
               fmt::format("{}.weight differs from {}.weight: nibble and transformers 5 use both, "
                           "others one of them",
                           HeadOf(config).module, EmbeddingOf(config).module));
    tied.Close(HeadOf(config).module + " is " + EmbeddingOf(config).module);
  }
  if (quant && quant->has_kv_cache_scheme) {
    report.findings.push_back({Grade::kUnusual, "the cache has no scheme of its own",
                               "kv_cache_scheme: for vLLM; nibble does not apply it"});
  }
  if (!scheme.unclear().empty()) {
    Rule patterns(report, "patterns can be evaluated", Grade::kUnusual);
    for (const std::string& why : scheme.unclear()) patterns.Check(false, why);
    patterns.Close("");
  }
  return report;
}

ValidationReport ValidateForVllm(const Checkpoint& checkpoint, int64_t tensor_parallel_size) {
  ValidationReport report = ValidateStructure(checkpoint);
  const ModelConfig& config = checkpoint.config();
  const int64_t ranks = tensor_parallel_size;

  const auto add = [&](bool ok, std::string rule, std::string detail) {
    report.findings.push_back(
        {ok ? Grade::kOk : Grade::kFails, std::move(rule), std::move(detail)});
  };
  add(config.num_heads % ranks == 0, "attention heads divide over the ranks",
      fmt::format("{} heads, {} ranks", config.num_heads, ranks));
  add(config.num_kv_heads % ranks == 0 || ranks % config.num_kv_heads == 0,
      "key/value heads divide over the ranks, or are replicated evenly",
      fmt::format("{} key/value heads, {} ranks", config.num_kv_heads, ranks));
  add(config.intermediate_size % ranks == 0, "expert width divides over the ranks",
      fmt::format("{} wide, {} ranks", config.intermediate_size, ranks));
  if (!checkpoint.quant_config()) return report;
  const QuantConfig& quant = *checkpoint.quant_config();
  const StoredTensors stored = StoredOf(checkpoint);
  const Scheme scheme(checkpoint.quant_config(), stored);

  Rule spelling(report, "experts are spelled w1, w2, w3", Grade::kDiffers);
  for (const auto& [published, tensor] : stored) {
    spelling.Check(published == tensor.name, tensor.name);
  }
  spelling.Close("published names");

  add(quant.symmetric, "the fused expert kernels take symmetric weights only",
      quant.symmetric ? "symmetric" : "asymmetric: quantize again without zero points");
  const bool group_ok = quant.group_size == -1 || quant.group_size == 32 ||
                        quant.group_size == 64 || quant.group_size == 128;
  add(group_ok, "the kernels take groups of 32, 64, 128 or whole rows",
      fmt::format("group size {}", quant.group_size));
  // Marlin's MoE kernel follows g_idx; the fallback for other cards does not.
  add(true, "the column order of experts has a kernel",
      quant.act_order == ActOrder::kGroup
          ? "act-order \"group\": Marlin only (compute capability 8.0 or newer)"
          : "natural order: any kernel");
  const std::vector<TensorSpec> tensors = TensorsOf(config);
  Rule ignored(report, "routers and lm_head are ignored by name");
  for (const TensorSpec& linear : tensors) {
    const bool tied = linear.part == Part::kHead && config.tie_word_embeddings;
    if (!linear.is_linear() || linear.tap != Tap::kNone || tied) continue;
    ignored.Check(scheme.Ignores(linear.module), linear.module + " is not in ignore");
  }
  ignored.Close(fmt::format("{} modules", ignored.checked()));

  // vLLM asks for the scheme of the experts under names of its own making.
  if (scheme.unclear().empty()) {
    Rule synthetic(report, "targets and ignore mean the experts under vLLM's own names too");
    for (const TensorSpec& linear : tensors) {
      if (linear.expert != 0) continue;
      const std::string name = Spellings(config, linear)[1];
      synthetic.Check(scheme.Quantizes(name) == scheme.Quantizes(linear.module),
                      fmt::format("{} is {}", name,
                                  scheme.Ignores(name)   ? "ignored"
                                  : scheme.Targets(name) ? "not ignored"
                                                         : "no target"));
    }
    synthetic.Close(fmt::format("{} names", synthetic.checked()));
  }

  // vLLM holds Linears that read one input as one, and all experts of a layer.
  Rule fused(report, "q, k, v share one scheme, and so do w1, w2, w3");
  std::map<std::pair<int64_t, bool>, const TensorSpec*> first_of;  // layer, experts or attention
  for (const TensorSpec& linear : tensors) {
    if (linear.tap != Tap::kAttentionInput && linear.expert < 0) continue;
    const TensorSpec* const first =
        first_of.try_emplace({linear.layer, linear.expert >= 0}, &linear).first->second;
    fused.Check(scheme.Quantizes(linear.module) == scheme.Quantizes(first->module),
                fmt::format("only one of {} and {} is quantized", first->module, linear.module));
  }
  fused.Close(fmt::format("{} layers", config.num_layers));

  // Marlin: columns a rank reads in steps of 128, rows a rank makes in steps of 64.
  const int64_t group = quant.group_size < 0 ? 1 : quant.group_size;
  const int64_t q_rows = config.num_heads * config.head_dim;
  const int64_t kv_rows = std::max(config.num_kv_heads / ranks, int64_t{1}) * config.head_dim;
  const bool divides = config.num_heads % ranks == 0 && config.intermediate_size % ranks == 0;
  add(config.hidden_size % 128 == 0, "hidden size is a multiple of 128",
      fmt::format("{}", config.hidden_size));
  if (divides) {
    add((q_rows / ranks + 2 * kv_rows) % 64 == 0,
        "rows of the fused qkv on a rank are a multiple of 64",
        fmt::format("{} + 2 x {}", q_rows / ranks, kv_rows));
    add((q_rows / ranks) % 128 == 0 && (q_rows / ranks) % group == 0,
        "o_proj columns on a rank are a multiple of 128 and of the group",
        fmt::format("{}", q_rows / ranks));
    const int64_t width = config.intermediate_size / ranks;
    add(width % std::max(int64_t{64}, group) == 0,
        "expert width on a rank is a multiple of the group and of 64", fmt::format("{}", width));
  }
  return report;
}

}  // namespace nibble
