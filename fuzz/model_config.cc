// config.json: any bytes give sizes whose products do not overflow, or an Error.
#include "checkpoint/model_config.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "nibble/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const nibble::ModelConfig config =
        nibble::ParseModelConfig(nibble::ParseJson(text, "config.json"), "config.json");
    NIBBLE_CHECK(config.num_parameters() > 0);
    NIBBLE_CHECK(config.num_heads % config.num_kv_heads == 0);
    NIBBLE_CHECK(config.num_experts_per_token <= config.num_experts);
    for (const int64_t id : config.eos_token_ids) NIBBLE_CHECK(id >= 0 && id < config.vocab_size);
  } catch (const nibble::Error&) {
    return 0;  // an Error is a valid result
  }
  return 0;
}
