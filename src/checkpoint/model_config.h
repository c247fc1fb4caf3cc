#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "tensor/dtype.h"

namespace nibble {

// config.json of a checkpoint, checked. `raw` keeps the document as it was read (key
// order, unknown keys), because the quantizer writes it back with one key added.
struct ModelConfig {
  std::string where;       // the file, for errors
  std::string model_type;  // its family
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  // of one expert
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;  // explicit, or hidden_size / num_heads
  int64_t num_experts = 0;
  int64_t num_experts_per_token = 0;
  int64_t max_positions = 0;
  int64_t sliding_window = 0;  // 0: full causal attention
  double rope_theta = 10000.0;
  double rms_norm_eps = 1e-5;
  bool tie_word_embeddings = false;
  std::optional<DType> dtype;          // torch_dtype, or dtype in new files; none: not stated
  int64_t bos_token_id = -1;           // -1: none
  std::vector<int64_t> eos_token_ids;  // one, several or none
  Json raw;

  int64_t num_parameters() const;
};

// Reads both the transformers 4 keys and the transformers 5 forms (dtype, rope_parameters). Throws
// kInvalidData naming the key, kUnsupported for a rope scaling that nibble does not implement.
ModelConfig ParseModelConfig(const Json& config, const std::string& where);
ModelConfig ReadModelConfig(const std::filesystem::path& directory);

}  // namespace nibble
