#include "checkpoint/quant_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/utf8.h"
#include "nibble/error.h"

namespace nibble {
namespace {

Error Unsupported(const std::string& where, const std::string& what) {
  return Error(ErrorCode::kUnsupported, where + ": " + what);
}

Error Invalid(const std::string& where, const std::string& what) {
  return Error(ErrorCode::kInvalidData, where + ": " + what);
}

// Any JSON value, short enough for a message.
std::string Shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return std::string(Utf8Prefix(text, 120));
}

// The member, or null when absent or JSON null.
const Json* Find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::vector<std::string> ReadNames(const Json& list, std::string_view key,
                                   const std::string& where) {
  if (!list.is_array()) throw Invalid(where, fmt::format("{}: expected a list of names", key));
  std::vector<std::string> names;
  for (const Json& name : list) {
    if (!name.is_string()) {
      throw Invalid(where, fmt::format("{}: expected names, found {}", key, Shown(name)));
    }
    names.push_back(name.get<std::string>());
  }
  return names;
}

std::vector<std::string> ReadNamesOf(const Json& object, const char* key,
                                     const std::string& where) {
  const Json* list = Find(object, key);
  return list == nullptr ? std::vector<std::string>() : ReadNames(*list, key, where);
}

ActOrder ReadActOrder(const Json& weights, const std::string& where) {
  const Json* value = Find(weights, "actorder");
  if (value == nullptr) return ActOrder::kNone;
  if (value->is_boolean()) return value->get<bool>() ? ActOrder::kGroup : ActOrder::kNone;
  if (value->is_string()) {
    std::string name = value->get<std::string>();
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (name == "group" || name == "dynamic") return ActOrder::kGroup;
    if (name == "weight" || name == "static") return ActOrder::kStatic;
  }
  throw Unsupported(where, "actorder: expected null, group or weight, found " + Shown(*value));
}

// -1 for one scale a row. The strategy may be absent: it follows from the group size.
int64_t ReadGroupSize(const Json& weights, const std::string& where) {
  const bool has_size = Find(weights, "group_size") != nullptr;
  const auto size = GetOr<int64_t>(weights, "group_size", 0, where);
  const std::string inferred = !has_size ? "tensor" : size == -1 ? "channel" : "group";
  const auto strategy = GetOr<std::string>(weights, "strategy", inferred, where);
  if (strategy == "channel") {
    if (has_size && size != -1) {
      throw Invalid(where, fmt::format("group_size: strategy channel has none, found {}", size));
    }
    return -1;
  }
  if (strategy != "group") {
    throw Unsupported(where, "strategy: expected group or channel, found " + Quoted(strategy));
  }
  constexpr int64_t kMaxGroup = int64_t{1} << 24;
  if (size < 1 || size > kMaxGroup) {
    throw Invalid(where, has_size
                             ? fmt::format("group_size: expected a positive number, found {}", size)
                             : "group_size is missing");
  }
  return size;
}

QuantConfig ReadGroup(const Json& group, const std::string& where) {
  for (const char* key : {"input_activations", "output_activations"}) {
    if (Find(group, key) != nullptr) {
      throw Unsupported(where, fmt::format("{}: nibble runs weight-only schemes", key));
    }
  }
  const Json* weights = Find(group, "weights");
  const std::string inside = where + ": weights";
  if (weights == nullptr) throw Invalid(where, "weights is missing");
  if (!weights->is_object()) throw Invalid(inside, "expected an object");

  QuantConfig config;
  const auto bits = GetRequired<int64_t>(*weights, "num_bits", inside);
  if (bits != 4 && bits != 8) {
    throw Unsupported(inside, fmt::format("num_bits: expected 4 or 8, found {}", bits));
  }
  config.bits = static_cast<int>(bits);
  if (const auto type = GetOr<std::string>(*weights, "type", "int", inside); type != "int") {
    throw Unsupported(inside, "type: expected int, found " + Quoted(type));
  }
  if (const Json* dynamic = Find(*weights, "dynamic"); dynamic != nullptr && *dynamic != false) {
    throw Unsupported(inside, "dynamic: expected false, found " + Shown(*dynamic));
  }
  if (const Json* block = Find(*weights, "block_structure")) {
    throw Unsupported(inside, "block_structure: expected null, found " + Shown(*block));
  }
  config.group_size = ReadGroupSize(*weights, inside);
  config.symmetric = GetOr<bool>(*weights, "symmetric", true, inside);
  config.act_order = ReadActOrder(*weights, inside);
  config.observer = GetOr<std::string>(*weights, "observer", "minmax", inside);
  config.targets = ReadNamesOf(group, "targets", where);
  return config;
}

// A group may be a preset name with its targets: {"W4A16": ["Linear"]}.
std::optional<QuantConfig> ReadPreset(const std::string& name, const Json& targets,
                                      const std::string& where) {
  QuantConfig config;
  if (name == "W8A16") {
    config.bits = 8;
    config.group_size = -1;
  } else if (name == "W4A16_ASYM") {
    config.symmetric = false;
  } else if (name != "W4A16") {
    return std::nullopt;
  }
  config.targets = ReadNames(targets, name, where);
  return config;
}

bool SameScheme(const QuantConfig& a, const QuantConfig& b) {
  return a.bits == b.bits && a.group_size == b.group_size && a.symmetric == b.symmetric &&
         a.act_order == b.act_order;
}

void CheckFormat(const Json& object, const std::string& where, bool may_be_mixed) {
  const auto format = GetOr<std::string>(object, "format", "pack-quantized", where);
  if (format != "pack-quantized" && !(may_be_mixed && format == "mixed-precision")) {
    throw Unsupported(where, "format: expected pack-quantized, found " + Quoted(format));
  }
}

QuantConfig ReadGroupOrPreset(const std::string& name, const Json& group,
                              const std::string& where) {
  const std::string inside = fmt::format("{}: {}", where, Quoted(name));
  if (group.is_object()) {
    CheckFormat(group, inside, false);
    return ReadGroup(group, inside);
  }
  if (!group.is_array()) throw Invalid(inside, "expected an object");
  const std::optional<QuantConfig> preset = ReadPreset(name, group, where);
  if (!preset) throw Unsupported(inside, "expected the preset W4A16, W4A16_ASYM or W8A16");
  return *preset;
}

// Several groups may share one scheme: their targets add up.
QuantConfig ReadGroups(const Json& groups, const std::string& where) {
  if (!groups.is_object() || groups.empty()) {
    throw Invalid(where, "expected an object with at least one group");
  }
  QuantConfig result = ReadGroupOrPreset(groups.begin().key(), *groups.begin(), where);
  for (auto group = std::next(groups.begin()); group != groups.end(); ++group) {
    const QuantConfig other = ReadGroupOrPreset(group.key(), *group, where);
    if (!SameScheme(result, other)) {
      throw Unsupported(where, "expected one scheme for the whole model, found several");
    }
    result.targets.insert(result.targets.end(), other.targets.begin(), other.targets.end());
  }
  return result;
}

}  // namespace

std::optional<QuantConfig> ParseQuantConfig(const Json& model_config, const std::string& where) {
  if (!model_config.is_object()) throw Invalid(where, "expected an object");
  const char* key = "quantization_config";
  const Json* object = Find(model_config, key);
  if (object == nullptr) object = Find(model_config, key = "compression_config");  // until 2024
  if (object == nullptr) return std::nullopt;
  const std::string inside = fmt::format("{}: {}", where, key);
  if (!object->is_object()) throw Invalid(inside, "expected an object");

  const auto method = GetOr<std::string>(*object, "quant_method", "compressed-tensors", inside);
  if (method != "compressed-tensors") {
    throw Unsupported(inside, "quant_method: expected compressed-tensors, found " + Quoted(method));
  }
  CheckFormat(*object, inside, true);
  for (const char* other : {"sparsity_config", "transform_config"}) {
    const Json* value = Find(*object, other);
    if (value == nullptr || (value->is_object() && value->empty())) continue;
    if (value->is_object() && value->value("format", Json()) == "dense") continue;
    throw Unsupported(inside, fmt::format("{}: expected nothing, found {}", other, Shown(*value)));
  }
  const Json* groups = Find(*object, "config_groups");
  if (groups == nullptr) throw Invalid(inside, "config_groups is missing");
  QuantConfig config = ReadGroups(*groups, inside + ": config_groups");
  config.ignore = ReadNamesOf(*object, "ignore", inside);
  config.has_kv_cache_scheme = Find(*object, "kv_cache_scheme") != nullptr;
  return config;
}

Json QuantConfigToJson(const QuantConfig& config) {
  const bool channel = config.group_size == -1;
  const Json group_size = channel ? Json() : Json(config.group_size);
  const Json act_order = config.act_order == ActOrder::kGroup ? Json("group") : Json();
  const Json weights = {{"actorder", act_order},
                        {"block_structure", nullptr},
                        {"dynamic", false},
                        {"group_size", group_size},
                        {"num_bits", config.bits},
                        {"observer", config.observer},
                        {"observer_kwargs", Json::object()},
                        {"strategy", channel ? "channel" : "group"},
                        {"symmetric", config.symmetric},
                        {"type", "int"}};
  const Json group = {{"input_activations", nullptr},
                      {"output_activations", nullptr},
                      {"targets", config.targets},
                      {"weights", weights}};
  return {{"config_groups", {{"group_0", group}}},
          {"format", "pack-quantized"},
          {"global_compression_ratio", nullptr},
          {"ignore", config.ignore},
          {"kv_cache_scheme", nullptr},
          {"quant_method", "compressed-tensors"},
          {"quantization_status", "compressed"}};
}

}  // namespace nibble
