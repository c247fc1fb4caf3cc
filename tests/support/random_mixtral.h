#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "tensor/tensor.h"

namespace nibble::testing {

// How the tensors of the experts are named and cut.
enum class ExpertSpelling {
  kPublished,    // block_sparse_moe.experts.E.{w1,w2,w3}
  kProjections,  // block_sparse_moe.experts.E.{gate,up,down}_proj, as llm-compressor 0.14 writes
  kFused,  // mlp.experts.gate_up_proj [E, 2I, H] and down_proj [E, H, I], transformers 5; dense
           // only
};

// A small Mixtral of random weights; the default sizes are odd wherever the format allows it.
struct RandomMixtral {
  int64_t vocab_size = 101;
  int64_t hidden_size = 48;
  int64_t intermediate_size = 72;
  int64_t num_layers = 2;
  int64_t num_heads = 6;
  int64_t num_kv_heads = 2;
  int64_t head_dim = 12;  // written to config.json where it is not hidden_size / num_heads
  int64_t num_experts = 5;
  int64_t num_experts_per_token = 2;
  int64_t max_positions = 512;
  int64_t sliding_window = 0;
  double rope_theta = 10000.0;
  bool tie_word_embeddings = false;  // then lm_head is not stored
  DType dtype = DType::kBF16;
  int bits = 0;  // 4 or 8: Linears but lm_head and the routers are packed, rounded to nearest
  int64_t group_size = 24;
  ExpertSpelling spelling = ExpertSpelling::kPublished;
  uint64_t seed = 1;

  // Called on each parameter under its published name ("model.norm.weight") before it is stored.
  std::function<void(const std::string& name, std::vector<float>& values)> edit = nullptr;
};

// Writes config.json and model.safetensors. A parameter's values depend on its published name, its
// shape and the seed only: not on the spelling or on other parameters.
void WriteRandomMixtral(const RandomMixtral& model, const std::filesystem::path& directory);

// A model of finite weights whose hidden states are not finite where token 7 has been seen.
RandomMixtral BrokenForTokenSeven();

// Changes the tensors of a model.safetensors, by name.
void EditTensors(const std::filesystem::path& directory,
                 const std::function<void(std::map<std::string, Tensor>& tensors)>& edit);

// Changes a config.json.
void EditConfig(const std::filesystem::path& directory,
                const std::function<void(Json& config)>& edit);

// Token ids from [0, vocab_size), the same for the same seed.
std::vector<int32_t> RandomTokens(int64_t count, int64_t vocab_size, uint64_t seed);

}  // namespace nibble::testing
