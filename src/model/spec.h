#pragma once

#include <cstdint>
#include <vector>

#include "backend/kv_pages.h"
#include "backend/shapes.h"
#include "tensor/dtype.h"

namespace nibble {

// What a decoder layer computes: x += attention(norm(x)), then x += mlp(norm(x)), where the MLP is
// a set of routed experts or, in a dense layer, the only expert of every token.
struct LayerSpec {
  AttentionShape attention;
  bool qkv_bias = false;
  bool out_bias = false;
  bool qk_norm = false;  // of every head's queries and keys, before rotation
  bool sinks = false;

  RouterShape router;
  bool correction = false;   // of the router's scores where experts are chosen
  int64_t intermediate = 0;  // width of an expert, or of the MLP of a dense layer

  int64_t shared_intermediate = 0;  // of the expert that sees every token besides; 0: none
  bool shared_gate = false;         // its weight is sigmoid(gate h) rather than 1

  int64_t q_rows() const { return attention.num_heads * attention.head_dim; }
  int64_t kv_rows() const { return attention.num_kv_heads * attention.head_dim; }
};

// What a checkpoint computes, as plain values: no names of tensors, files or families.
struct ModelSpec {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t max_positions = 0;
  std::vector<LayerSpec> layers;
  float norm_eps = 1e-5f;  // of the final norm

  int64_t num_layers() const { return static_cast<int64_t>(layers.size()); }
  const LayerSpec& layer(int64_t index) const { return layers[index]; }
  KvShape Kv(DType kv_dtype, int64_t block_size = kKvBlockSize) const;
};

// Rotary frequencies theta^(-2i / dim), i < dim / 2, computed in float as transformers does.
std::vector<float> InverseFrequencies(double theta, int64_t dim);

}  // namespace nibble
