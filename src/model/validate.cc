#include "model/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "checkpoint/module_pattern.h"
#include "model/weights.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// Collects offenders of one rule and turns them into a finding: how many, and the first by name.
class Rule {
 public:
  Rule(ValidationReport& report, std::string name) : report_(report), name_(std::move(name)) {}

  void Check(bool ok, const std::string& offence) {
    ++checked_;
    if (ok) return;
    if (failed_++ == 0) first_ = offence;
  }

  // `summary` is the detail when all is well.
  void Close(const std::string& summary) {
    std::string detail = summary;
    if (failed_ > 0)
      detail = first_ + (failed_ > 1 ? fmt::format(" (and {} more)", failed_ - 1) : "");
    report_.findings.push_back({failed_ == 0, name_, detail});
  }

  int64_t checked() const { return checked_; }

 private:
  ValidationReport& report_;
  std::string name_;
  int64_t checked_ = 0;
  int64_t failed_ = 0;
  std::string first_;
};

struct Expected {
  Shape shape;
  std::optional<DType> dtype;  // nullopt: any float type
};

// The tensors that config.json and quantization_config promise, by name.
std::map<std::string, Expected> ExpectedTensors(const ModelConfig& config,
                                                const std::optional<QuantConfig>& quant) {
  std::map<std::string, Expected> expected;
  const Shape hidden({config.hidden_size});
  const std::vector<ModulePattern> ignore =
      quant ? CompilePatterns(quant->ignore) : std::vector<ModulePattern>();
  expected["model.embed_tokens.weight"] = {Shape({config.vocab_size, config.hidden_size}), {}};
  expected["model.norm.weight"] = {hidden, {}};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = mixtral_names::Layer(layer);
    expected[prefix + ".input_layernorm.weight"] = {hidden, {}};
    expected[prefix + ".post_attention_layernorm.weight"] = {hidden, {}};
  }
  for (const LinearSpec& linear : AllLinears(config)) {
    if (!quant || MatchesAny(ignore, linear.module)) {
      expected[linear.module + ".weight"] = {Shape({linear.rows, linear.cols}), {}};
      continue;
    }
    const int64_t group = quant->group_size < 0 ? linear.cols : quant->group_size;
    const int64_t codes_per_word = 32 / quant->bits;
    const auto words = [&](int64_t codes) { return (codes + codes_per_word - 1) / codes_per_word; };
    const int64_t groups = linear.cols / group;
    expected[linear.module + ".weight_packed"] = {Shape({linear.rows, words(linear.cols)}),
                                                  DType::kI32};
    expected[linear.module + ".weight_scale"] = {Shape({linear.rows, groups}), config.dtype};
    expected[linear.module + ".weight_shape"] = {Shape({2}), DType::kI64};
    if (!quant->symmetric) {
      expected[linear.module + ".weight_zero_point"] = {Shape({words(linear.rows), groups}),
                                                        DType::kI32};
    }
    if (quant->act_order == ActOrder::kGroup) {
      expected[linear.module + ".weight_g_idx"] = {Shape({linear.cols}), DType::kI32};
    }
  }
  return expected;
}

// Other spellings of the same tensor (llm-compressor 0.14 and newer write gate_proj, up_proj,
// down_proj), folded into the published one; `renamed` counts them.
std::string PublishedName(const std::string& name, int64_t& renamed) {
  static const std::pair<std::string, std::string> kSpellings[] = {
      {".gate_proj.", ".w1."}, {".up_proj.", ".w3."}, {".down_proj.", ".w2."}};
  if (name.find(".block_sparse_moe.experts.") == std::string::npos) return name;
  for (const auto& [found, published] : kSpellings) {
    const size_t at = name.find(found);
    if (at == std::string::npos) continue;
    ++renamed;
    return name.substr(0, at) + published + name.substr(at + found.size());
  }
  return name;
}

void CheckScales(const std::string& name, const TensorView& scales, Rule& rule) {
  const std::vector<float> values = ToFloat(scales);
  const auto bad = std::find_if(values.begin(), values.end(),
                                [](float s) { return !(std::isfinite(s) && s > 0.0f); });
  rule.Check(bad == values.end(),
             bad == values.end() ? ""
                                 : fmt::format("{}: scale {} at index {} is not a positive number",
                                               name, *bad, bad - values.begin()));
}

}  // namespace

bool ValidationReport::passed() const {
  return std::all_of(findings.begin(), findings.end(), [](const Finding& f) { return f.passed; });
}

std::string ValidationReport::Failures() const {
  std::string text;
  for (const Finding& finding : findings) {
    if (!finding.passed) text += (text.empty() ? "" : "\n") + finding.rule + ": " + finding.detail;
  }
  return text;
}

ValidationReport ValidateStructure(const Checkpoint& checkpoint) {
  ValidationReport report;
  const ModelConfig& config = checkpoint.config();
  const std::optional<QuantConfig>& quant = checkpoint.quant_config();
  const std::map<std::string, Expected> expected = ExpectedTensors(config, quant);

  std::map<std::string, std::string> present;  // published name → name in the file
  int64_t renamed = 0;
  for (const std::string& name : checkpoint.names()) present[PublishedName(name, renamed)] = name;

  Rule missing(report, "every promised tensor is there");
  for (const auto& [name, tensor] : expected) {
    const bool tied_head = name == "lm_head.weight" && config.tie_word_embeddings;
    missing.Check(tied_head || present.contains(name), name + " is missing");
  }
  missing.Close(fmt::format("{} tensors", missing.checked()));

  Rule extra(report, "no tensor the configs do not promise");
  for (const auto& [name, file_name] : present) {
    extra.Check(expected.contains(name), file_name + " is unexpected");
  }
  extra.Close(fmt::format("{} tensors", extra.checked()));

  if (const std::optional<int64_t> declared = checkpoint.declared_bytes()) {
    Rule size(report, "the index's total_size is the sum of its tensors");
    size.Check(*declared == checkpoint.total_bytes(),
               fmt::format("expected {}, found {}", checkpoint.total_bytes(), *declared));
    size.Close(fmt::format("{} bytes", *declared));
  }

  Rule types(report, "types and shapes");
  Rule scales(report, "scales are finite and positive");
  Rule shapes(report, "weight_shape gives the unpacked shape");
  for (const auto& [name, file_name] : present) {
    const auto wanted = expected.find(name);
    if (wanted == expected.end()) continue;
    const TensorView view = checkpoint.Get(file_name);
    const auto& [shape, dtype] = wanted->second;
    const bool type_ok = dtype ? view.dtype() == *dtype : IsFloat(view.dtype());
    types.Check(type_ok && view.shape() == shape,
                fmt::format("{}: expected {} {}, found {} {}", file_name,
                            dtype ? DTypeName(*dtype) : "a float type", shape.ToString(),
                            DTypeName(view.dtype()), view.shape().ToString()));
    if (!type_ok || view.shape() != shape) continue;
    if (name.ends_with(".weight_scale")) CheckScales(file_name, view, scales);
  }
  for (const LinearSpec& linear : AllLinears(config)) {
    const auto entry = present.find(linear.module + ".weight_shape");
    if (entry == present.end()) continue;
    const TensorView view = checkpoint.Get(entry->second);
    if (view.dtype() != DType::kI64 || view.num_elements() != 2) continue;  // reported above
    const std::span<const int64_t> value = view.As<int64_t>();
    shapes.Check(value[0] == linear.rows && value[1] == linear.cols,
                 fmt::format("{}: expected [{}, {}], found [{}, {}]", entry->second, linear.rows,
                             linear.cols, value[0], value[1]));
  }
  types.Close(fmt::format("{} tensors", types.checked()));
  if (quant) {
    scales.Close(fmt::format("{} Linears", scales.checked()));
    shapes.Close(fmt::format("{} Linears", shapes.checked()));

    const std::vector<ModulePattern> ignore = CompilePatterns(quant->ignore);
    Rule groups(report, "groups divide the columns");
    for (const LinearSpec& linear : AllLinears(config)) {
      if (MatchesAny(ignore, linear.module)) continue;
      const int64_t group = quant->group_size < 0 ? linear.cols : quant->group_size;
      groups.Check(linear.cols % group == 0,
                   fmt::format("{}: {} columns, groups of {}", linear.module, linear.cols, group));
    }
    groups.Close(fmt::format("{} Linears", groups.checked()));
  }
  return report;
}

ValidationReport ValidateForVllm(const Checkpoint& checkpoint, int64_t tensor_parallel_size) {
  ValidationReport report = ValidateStructure(checkpoint);
  const ModelConfig& config = checkpoint.config();
  const int64_t ranks = tensor_parallel_size;

  const auto add = [&](bool ok, std::string rule, std::string detail) {
    report.findings.push_back({ok, std::move(rule), std::move(detail)});
  };
  add(config.num_heads % ranks == 0, "attention heads divide over the ranks",
      fmt::format("{} heads, {} ranks", config.num_heads, ranks));
  add(config.num_kv_heads % ranks == 0 || ranks % config.num_kv_heads == 0,
      "key/value heads divide over the ranks, or are replicated evenly",
      fmt::format("{} key/value heads, {} ranks", config.num_kv_heads, ranks));
  add(config.intermediate_size % ranks == 0, "expert width divides over the ranks",
      fmt::format("{} wide, {} ranks", config.intermediate_size, ranks));
  const std::optional<QuantConfig>& scheme = checkpoint.quant_config();
  if (!scheme) return report;
  const QuantConfig& quant = *scheme;
  const std::vector<ModulePattern> ignore = CompilePatterns(quant.ignore);

  int64_t renamed = 0;
  std::string first_renamed;
  for (const std::string& name : checkpoint.names()) {
    if (PublishedName(name, renamed) != name && first_renamed.empty()) first_renamed = name;
  }
  add(renamed == 0, "experts are spelled w1, w2, w3",
      renamed == 0 ? "published names"
                   : fmt::format("{} (and {} more)", first_renamed, renamed - 1));

  add(quant.symmetric, "the fused expert kernels take symmetric weights only",
      quant.symmetric ? "symmetric" : "asymmetric: quantize without --asymmetric");
  const bool group_ok = quant.group_size == -1 || quant.group_size == 32 ||
                        quant.group_size == 64 || quant.group_size == 128;
  add(group_ok, "the kernels take groups of 32, 64, 128 or whole rows",
      fmt::format("group size {}", quant.group_size));
  // Marlin's MoE kernel follows g_idx; the fallback for other cards does not.
  add(true, "the column order of experts has a kernel",
      quant.act_order == ActOrder::kGroup
          ? "act-order \"group\": Marlin only (compute capability 8.0 or newer)"
          : "natural order: any kernel");
  add(quant.targets == std::vector<std::string>{"Linear"}, "targets is exactly [\"Linear\"]",
      fmt::format("{}", fmt::join(quant.targets, ", ")));

  Rule ignored(report, "routers and lm_head are ignored by name");
  for (const LinearSpec& linear : AllLinears(config)) {
    const bool must = linear.module == "lm_head" || linear.module.ends_with(".gate");
    if (must && !(linear.module == "lm_head" && config.tie_word_embeddings)) {
      ignored.Check(MatchesAny(ignore, linear.module), linear.module + " is not in ignore");
    }
  }
  ignored.Close(fmt::format("{} modules", ignored.checked()));

  // vLLM asks for the scheme of each expert under names of its own making.
  Rule synthetic(report, "no ignore pattern catches an expert under vLLM's own names");
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const char* linear : {"gate_proj", "up_proj", "down_proj"}) {
      const std::string name =
          mixtral_names::Layer(layer) + ".block_sparse_moe.experts.0." + linear;
      synthetic.Check(!MatchesAny(ignore, name), name + " is ignored");
    }
  }
  synthetic.Close(fmt::format("{} names", synthetic.checked()));

  Rule fused(report, "q, k, v share one scheme, and so do w1, w2, w3");
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const auto quantized = [&](const std::string& module) { return !MatchesAny(ignore, module); };
    const auto attention = [&](const char* p) {
      return quantized(mixtral_names::Attention(layer, p));
    };
    fused.Check(
        attention("q_proj") == attention("k_proj") && attention("k_proj") == attention("v_proj"),
        mixtral_names::Layer(layer) + ".self_attn: only some of q, k, v are quantized");
    const bool first = quantized(mixtral_names::Expert(layer, 0, "w1"));
    for (int64_t expert = 0; expert < config.num_experts; ++expert) {
      for (const char* linear : {"w1", "w2", "w3"}) {
        const std::string module = mixtral_names::Expert(layer, expert, linear);
        fused.Check(quantized(module) == first,
                    module + " differs from the other experts of its layer");
      }
    }
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
