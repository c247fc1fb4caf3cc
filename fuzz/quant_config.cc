// quantization_config, with regular expressions inside: any bytes give a scheme that is written and
// read back equal, or an Error, in bounded time.
#include "checkpoint/quant_config.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/check.h"
#include "checkpoint/module_pattern.h"
#include "nibble/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::optional<nibble::QuantConfig> config;
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const nibble::Json json = nibble::ParseJson(text, "config.json");
    config = nibble::ParseQuantConfig({{"quantization_config", json}}, "config.json");
    if (!config) return 0;
  } catch (const nibble::Error&) {
    return 0;
  }
  try {
    nibble::MatchesAny(nibble::CompilePatterns(config->ignore),
                       "model.layers.31.block_sparse_moe.experts.7.down_proj");
  } catch (
      const nibble::Error&) {  // a pattern nibble does not evaluate: the rest holds all the same
  }
  const nibble::Json written = nibble::QuantConfigToJson(*config);
  const auto again = nibble::ParseQuantConfig({{"quantization_config", written}}, "written");
  NIBBLE_CHECK(again.has_value() && again->bits == config->bits &&
               again->group_size == config->group_size && again->symmetric == config->symmetric &&
               again->ignore == config->ignore);
  return 0;
}
