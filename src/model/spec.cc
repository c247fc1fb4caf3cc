#include "model/spec.h"

#include <cmath>

#include "base/check.h"

namespace nibble {

KvShape ModelSpec::Kv(DType kv_dtype, int64_t block_size) const {
  const AttentionShape& first = layers.front().attention;
  for (const LayerSpec& layer : layers) {
    NIBBLE_CHECK(layer.attention.num_kv_heads == first.num_kv_heads &&
                 layer.attention.head_dim == first.head_dim);
  }
  return {.num_layers = num_layers(),
          .num_kv_heads = first.num_kv_heads,
          .head_dim = first.head_dim,
          .block_size = block_size,
          .dtype = kv_dtype};
}

ModelSpec SpecOf(const ModelConfig& config) {
  const float eps = static_cast<float>(config.rms_norm_eps);
  LayerSpec layer;
  layer.attention = {.num_heads = config.num_heads,
                     .num_kv_heads = config.num_kv_heads,
                     .head_dim = config.head_dim,
                     .sliding_window = config.sliding_window,
                     .norm_eps = eps,
                     .rotary = {InverseFrequencies(config.rope_theta, config.head_dim)}};
  layer.router = {
      .num_experts = config.num_experts, .top_k = config.num_experts_per_token, .norm_eps = eps};
  layer.intermediate = config.intermediate_size;
  ModelSpec spec;
  spec.vocab_size = config.vocab_size;
  spec.hidden_size = config.hidden_size;
  spec.max_positions = config.max_positions;
  spec.layers.assign(static_cast<size_t>(config.num_layers), layer);
  spec.norm_eps = eps;
  spec.tied_head = config.tie_word_embeddings;
  spec.dtype = config.dtype;
  return spec;
}

std::vector<float> InverseFrequencies(double theta, int64_t dim) {
  std::vector<float> frequencies(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    frequencies[i] = 1.0f / std::pow(static_cast<float>(theta), exponent);
  }
  return frequencies;
}

}  // namespace nibble
