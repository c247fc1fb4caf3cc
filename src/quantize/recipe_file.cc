#include "quantize/recipe_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <vector>

#include "base/yaml.h"

namespace nibble {
namespace {

// A value of the document and its path, for messages: "recipe.yaml: stage.modifiers.…".
struct Place {
  const Json& value;
  std::string path;

  Place At(const std::string& key) const { return {value.at(key), path + "." + key}; }
};

[[noreturn]] void Invalid(const Place& place, const std::string& expected) {
  throw Error(ErrorCode::kInvalidData,
              fmt::format("{}: expected {}, found {}", place.path, expected, place.value.dump()));
}

[[noreturn]] void Unsupported(const Place& place, const std::string& supported) {
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: {} is not supported; nibble does {}",
                                                   place.path, place.value.dump(), supported));
}

// The value at `key`, or nullopt if it is absent or null.
std::optional<Place> Find(const Place& place, const std::string& key) {
  if (!place.value.contains(key) || place.value.at(key).is_null()) return std::nullopt;
  return place.At(key);
}

std::string String(const Place& place) {
  if (!place.value.is_string()) Invalid(place, "a string");
  return place.value.get<std::string>();
}

bool Bool(const Place& place) {
  if (!place.value.is_boolean()) Invalid(place, "true or false");
  return place.value.get<bool>();
}

int64_t Integer(const Place& place) {
  if (!place.value.is_number_integer()) Invalid(place, "an integer");
  return place.value.get<int64_t>();
}

double Number(const Place& place) {
  if (!place.value.is_number()) Invalid(place, "a number");
  return place.value.get<double>();
}

// One string or a list of them.
std::vector<std::string> Strings(const Place& place) {
  if (place.value.is_string()) return {String(place)};
  if (!place.value.is_array()) Invalid(place, "a list of strings");
  std::vector<std::string> strings;
  for (const Json& value : place.value) strings.push_back(String({value, place.path}));
  return strings;
}

void ExpectObject(const Place& place) {
  if (!place.value.is_object()) Invalid(place, "a mapping");
}

// Refuses keys that are neither known nor null, by name.
void ExpectKeys(const Place& place, std::initializer_list<const char*> known) {
  ExpectObject(place);
  for (const auto& [key, value] : place.value.items()) {
    const bool is_known = std::any_of(known.begin(), known.end(),
                                      [&](const char* name) { return key == std::string(name); });
    if (is_known || value.is_null()) continue;
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}.{}: nibble does not support this setting", place.path, key));
  }
}

void ExpectLinearTargets(const Place& place) {
  if (Strings(place) != std::vector<std::string>{"Linear"}) {
    Unsupported(place, "targets: [Linear], narrowed by ignore");
  }
}

std::string ActOrderWord(const Place& place) {
  if (place.value.is_boolean()) return Bool(place) ? "group" : "none";
  const std::string word = String(place);
  if (word == "static" || word == "weight") return "static";
  if (word == "group" || word == "dynamic") return "group";
  Unsupported(place, "null, static (= weight) and group (= dynamic)");
}

void ReadPreset(const Place& place, const std::string& preset, RecipeOptions& options) {
  if (preset == "W4A16" || preset == "W4A16_ASYM") {
    options.bits = 4;
    options.group_size = "128";
    options.asymmetric = preset == "W4A16_ASYM";
  } else if (preset == "W8A16") {
    options.bits = 8;
    options.group_size = "channel";
    options.asymmetric = false;
  } else {
    Unsupported(place, "the schemes W4A16, W4A16_ASYM and W8A16");
  }
}

void ReadWeights(const Place& weights, RecipeOptions& options) {
  ExpectKeys(weights, {"num_bits", "type", "symmetric", "group_size", "strategy", "dynamic",
                       "actorder", "observer", "observer_kwargs"});
  if (const auto bits = Find(weights, "num_bits")) {
    options.bits = static_cast<int>(Integer(*bits));
    if (options.bits != 4 && options.bits != 8) Unsupported(*bits, "4 and 8 bits");
  } else {
    options.bits = 8;  // compressed-tensors' default
  }
  if (const auto type = Find(weights, "type"); type && String(*type) != "int") {
    Unsupported(*type, "type int");
  }
  if (const auto dynamic = Find(weights, "dynamic"); dynamic && Bool(*dynamic)) {
    Unsupported(*dynamic, "weights with dynamic false");
  }
  if (const auto symmetric = Find(weights, "symmetric")) options.asymmetric = !Bool(*symmetric);
  const auto group_size = Find(weights, "group_size");
  const auto strategy = Find(weights, "strategy");
  const int64_t group = group_size ? Integer(*group_size) : -1;
  const std::string kind = strategy ? String(*strategy) : group > 0 ? "group" : "channel";
  if (kind == "channel" && group <= 0) {
    options.group_size = "channel";
  } else if (kind == "group" && (group == 32 || group == 64 || group == 128)) {
    options.group_size = fmt::format("{}", group);
  } else if (kind == "group" && group_size) {
    Unsupported(*group_size, "groups of 32, 64 and 128");
  } else {
    Unsupported(strategy ? *strategy : weights,
                "strategy group with a group_size, and strategy channel without");
  }
  if (const auto order = Find(weights, "actorder")) options.act_order = ActOrderWord(*order);
  if (const auto observer = Find(weights, "observer")) options.observer = String(*observer);
  if (options.observer == "memoryless_minmax") options.observer = "minmax";
  if (options.observer == "memoryless_mse") options.observer = "mse";
  if (const auto extra = Find(weights, "observer_kwargs"); extra && !extra->value.empty()) {
    Unsupported(*extra, "observers with their default settings");
  }
}

void ReadGroups(const Place& groups, RecipeOptions& options) {
  ExpectObject(groups);
  if (groups.value.size() != 1) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: {} groups; nibble quantizes all Linears by one scheme",
                            groups.path, groups.value.size()));
  }
  const Place group = groups.At(groups.value.begin().key());
  ExpectObject(group);
  for (const char* key : {"input_activations", "output_activations"}) {
    if (const auto activations = Find(group, key)) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: nibble quantizes weights only, activations stay 16 bit",
                              activations->path));
    }
  }
  ExpectKeys(group, {"targets", "weights", "format"});
  if (const auto format = Find(group, "format"); format && String(*format) != "pack-quantized") {
    Unsupported(*format, "pack-quantized");
  }
  if (const auto targets = Find(group, "targets")) ExpectLinearTargets(*targets);
  const auto weights = Find(group, "weights");
  if (!weights) Invalid(group, "weights");
  ReadWeights(*weights, options);
}

void ReadScheme(const Place& scheme, RecipeOptions& options) {
  if (scheme.value.is_string()) return ReadPreset(scheme, String(scheme), options);
  ExpectObject(scheme);
  if (scheme.value.size() != 1) Invalid(scheme, "one scheme");
  const std::string preset = scheme.value.begin().key();
  ReadPreset(scheme, preset, options);
  ExpectLinearTargets(scheme.At(preset));
}

RecipeOptions ReadModifier(const std::string& name, const Place& modifier) {
  RecipeOptions options;
  options.method = name == "GPTQModifier" ? "gptq" : "rtn";
  options.dampening = 0.01;
  options.ignore.clear();
  ExpectKeys(modifier, {"config_groups", "scheme", "targets", "ignore", "block_size",
                        "dampening_frac", "actorder", "sequential_update", "sequential_targets",
                        "offload_hessians", "kv_cache_scheme", "bypass_divisibility_checks"});
  const auto groups = Find(modifier, "config_groups");
  const auto scheme = Find(modifier, "scheme");
  if (groups && scheme) Invalid(modifier, "config_groups or scheme, not both");
  if (groups) {
    ReadGroups(*groups, options);
  } else if (scheme) {
    ReadScheme(*scheme, options);
  } else {
    Invalid(modifier, "config_groups or scheme");
  }
  if (const auto targets = Find(modifier, "targets")) ExpectLinearTargets(*targets);
  if (const auto ignore = Find(modifier, "ignore")) options.ignore = Strings(*ignore);
  if (const auto kv = Find(modifier, "kv_cache_scheme"))
    Unsupported(*kv, "a KV cache of 16 or 32 bits");
  if (options.method == "rtn") {
    for (const char* key : {"block_size", "dampening_frac", "actorder"}) {
      if (const auto setting = Find(modifier, key)) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: a setting of the GPTQModifier", setting->path));
      }
    }
    return options;
  }
  if (const auto block_size = Find(modifier, "block_size"))
    options.block_size = Integer(*block_size);
  if (const auto damp = Find(modifier, "dampening_frac")) options.dampening = Number(*damp);
  if (const auto order = Find(modifier, "actorder")) options.act_order = ActOrderWord(*order);
  if (const auto update = Find(modifier, "sequential_update")) Bool(*update);  // always sequential
  return options;
}

}  // namespace

RecipeOptions ParseRecipe(std::string_view yaml, const std::string& where) {
  const Json document = ParseYaml(yaml, where);
  const Place root{document, where};
  if (!document.is_object() || document.empty()) Invalid(root, "stages of modifiers");
  std::optional<RecipeOptions> options;
  const auto read_modifiers = [&](const Place& modifiers) {
    ExpectObject(modifiers);
    for (const auto& [name, unused] : modifiers.value.items()) {
      const Place modifier = modifiers.At(name);
      if (name != "GPTQModifier" && name != "QuantizationModifier") {
        throw Error(
            ErrorCode::kUnsupported,
            fmt::format("{}: nibble does GPTQModifier and QuantizationModifier", modifier.path));
      }
      if (options) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: a second quantization; a recipe may hold one", modifier.path));
      }
      options = ReadModifier(name, modifier);
    }
  };
  for (const auto& [key, unused] : document.items()) {
    const Place stage = root.At(key);
    if (key.ends_with("_modifiers") || key == "modifiers") {
      read_modifiers(stage);
    } else if (key.ends_with("_stage")) {
      ExpectObject(stage);
      for (const auto& [group, value] : stage.value.items()) {
        if (group == "run_type") continue;  // "oneshot"
        if (!group.ends_with("modifiers")) {
          throw Error(ErrorCode::kUnsupported,
                      fmt::format("{}: expected a group of modifiers", stage.At(group).path));
        }
        read_modifiers(stage.At(group));
      }
    } else {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: expected a name that ends in _stage or _modifiers", stage.path));
    }
  }
  if (!options) Invalid(root, "a GPTQModifier or QuantizationModifier");
  return *options;
}

std::string RecipeToYaml(const Recipe& recipe) {
  const auto quote = [](const std::string& text) {
    std::string quoted = "'";
    for (const char c : text) quoted += c == '\'' ? "''" : std::string(1, c);
    return quoted + "'";
  };
  const bool gptq = recipe.method == Method::kGptq;
  std::string ignore;
  for (const ModulePattern& pattern : recipe.ignore) {
    ignore += (ignore.empty() ? "" : ", ") + quote(pattern.text());
  }
  std::string text = fmt::format(
      "default_stage:\n"
      "  default_modifiers:\n"
      "    {}:\n"
      "      config_groups:\n"
      "        group_0:\n"
      "          targets: [Linear]\n"
      "          weights: {{num_bits: {}, type: int, symmetric: {}, {}, dynamic: false, actorder: "
      "{}, "
      "observer: {}, observer_kwargs: {{}}}}\n"
      "      targets: [Linear]\n"
      "      ignore: [{}]\n",
      gptq ? "GPTQModifier" : "QuantizationModifier", recipe.bits,
      recipe.symmetric ? "true" : "false",
      recipe.group_size < 0 ? std::string("strategy: channel")
                            : fmt::format("group_size: {}, strategy: group", recipe.group_size),
      recipe.act_order == ActOrder::kNone ? "null" : Name(recipe.act_order), Name(recipe.observer),
      ignore);
  if (gptq) {
    text += fmt::format("      block_size: {}\n      dampening_frac: {}\n", recipe.block_size,
                        recipe.dampening);
  }
  return text;
}

}  // namespace nibble
