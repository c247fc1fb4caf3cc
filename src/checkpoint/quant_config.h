#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace nibble {

enum class ActOrder { kNone, kStatic, kGroup };

// The part of compressed-tensors' quantization_config that nibble reads and writes: one weight-only
// integer scheme (format pack-quantized). Source: docs/formats.md#quantization_config.
struct QuantConfig {
  int bits = 4;
  int64_t group_size = 128;  // -1: one scale per row (strategy "channel")
  bool symmetric = true;
  ActOrder act_order = ActOrder::kNone;  // kStatic is written as null: same tensors as kNone
  std::string observer = "minmax";
  // Entries as ModulePattern reads them; a target may also name a class, "Linear". Not compiled,
  // for no reader needs them: which Linears are quantized is told by their tensors.
  std::vector<std::string> targets = {"Linear"};
  std::vector<std::string> ignore;
  // A scheme for the KV cache is there. nibble does not apply it, nor write one.
  bool has_kv_cache_scheme = false;
};

// nullopt when config.json has no quantization_config. What its quantization_status says does not
// count: packed tensors are there or not. Throws kUnsupported naming the field and
// value for anything but compressed-tensors W4A16/W8A16 pack-quantized.
std::optional<QuantConfig> ParseQuantConfig(const Json& model_config, const std::string& where);

// The quantization_config object: keys sorted, no keys that old or strict readers refuse.
Json QuantConfigToJson(const QuantConfig& config);

}  // namespace nibble
