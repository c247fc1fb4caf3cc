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

std::vector<float> InverseFrequencies(double theta, int64_t dim) {
  std::vector<float> frequencies(dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    frequencies[i] = 1.0f / std::pow(static_cast<float>(theta), exponent);
  }
  return frequencies;
}

}  // namespace nibble
