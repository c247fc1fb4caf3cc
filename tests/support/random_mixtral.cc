#include "tests/support/random_mixtral.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <stdexcept>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/quant_config.h"
#include "checkpoint/safetensors.h"
#include "tensor/packed.h"

namespace nibble::testing {
namespace {

// Mersenne twister values are fixed by the standard, its distributions are not: uniform in [-1, 1).
double Uniform(std::mt19937_64& generator) {
  return static_cast<double>(generator() >> 11) * 0x1p-52 - 1.0;
}

uint64_t Hash(const std::string& name, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325u ^ (seed * 0x9e3779b97f4a7c15u);
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

class Writer {
 public:
  explicit Writer(const RandomMixtral& model) : model_(model) {}

  void WriteTo(const std::filesystem::path& directory) {
    AddAll();
    std::vector<std::pair<std::string, TensorView>> views;
    for (const auto& [name, tensor] : tensors_) views.emplace_back(name, tensor.view());
    std::filesystem::create_directories(directory);
    WriteSafetensors(directory / "model.safetensors", views);
    WriteTextFile(directory / "config.json", Config().dump(2));
  }

 private:
  std::vector<float> Values(const std::string& name, int64_t rows, int64_t cols) const {
    std::mt19937_64 generator(Hash(name, model_.seed));
    const bool is_norm = rows == 1;
    // Unit variance in, unit variance out: std 1/sqrt(cols), uniform values reach sqrt(3) of that.
    const double reach = std::sqrt(3.0 / static_cast<double>(cols));
    const bool is_table = name == "model.embed_tokens.weight";
    std::vector<float> values(rows * cols);
    for (float& value : values) {
      const double u = Uniform(generator);
      value = static_cast<float>(is_norm ? 1.0 + 0.2 * u : is_table ? u : reach * u);
    }
    if (model_.edit) model_.edit(name, values);
    return values;
  }

  void AddDense(const std::string& name, std::vector<float> values, Shape shape) {
    tensors_.emplace(name, FromFloat(values, model_.dtype, shape));
  }

  void AddNorm(const std::string& module) {
    AddDense(module + ".weight", Values(module + ".weight", 1, model_.hidden_size),
             Shape{model_.hidden_size});
  }

  // `published` determines the values, `stored` the tensor's name.
  void AddLinear(const std::string& published, const std::string& stored, int64_t rows,
                 int64_t cols, bool quantizable) {
    std::vector<float> values = Values(published + ".weight", rows, cols);
    if (model_.bits != 0 && quantizable) {
      AddPacked(stored, values, rows, cols);
    } else {
      AddDense(stored + ".weight", std::move(values), Shape{rows, cols});
    }
  }

  // Symmetric, the largest magnitude of a group at 7.5 (127.5) steps, nearest code.
  void AddPacked(const std::string& module, const std::vector<float>& values, int64_t rows,
                 int64_t cols) {
    const int64_t groups = cols / model_.group_size;
    if (groups * model_.group_size != cols) throw std::runtime_error("group_size must divide cols");
    const float largest_code = static_cast<float>(1 << (model_.bits - 1));
    std::vector<float> scales(rows * groups);
    std::vector<int8_t> codes(values.size());
    for (size_t group = 0; group < scales.size(); ++group) {
      const size_t begin = group * static_cast<size_t>(model_.group_size);
      const size_t end = begin + static_cast<size_t>(model_.group_size);
      float largest = 0;
      for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(values[i]));
      const float scale = static_cast<float>(BFloat16(largest / (largest_code - 0.5f)));
      scales[group] = scale;
      if (!(scale > 0) || !std::isfinite(scale)) continue;  // no code helps: zeros
      for (size_t i = begin; i < end; ++i) {
        codes[i] = static_cast<int8_t>(
            std::clamp(std::nearbyint(values[i] / scale), -largest_code, largest_code - 1));
      }
    }
    tensors_.emplace(module + ".weight_packed", PackCodes(codes, rows, cols, model_.bits));
    tensors_.emplace(module + ".weight_scale",
                     FromFloat(scales, DType::kBF16, Shape{rows, groups}));
    tensors_.emplace(module + ".weight_shape",
                     Tensor::FromVector(std::vector<int64_t>{rows, cols}, Shape{2}));
  }

  void AddExperts(const std::string& layer) {
    const int64_t hidden = model_.hidden_size;
    const int64_t inner = model_.intermediate_size;
    const std::string published = layer + ".block_sparse_moe.experts.";
    if (model_.spelling == ExpertSpelling::kFused) {
      std::vector<float> gate_up;
      std::vector<float> down;
      const auto append = [&](std::vector<float>& to, int64_t expert, const char* linear,
                              int64_t rows, int64_t cols) {
        const auto values =
            Values(published + std::to_string(expert) + "." + linear + ".weight", rows, cols);
        to.insert(to.end(), values.begin(), values.end());
      };
      for (int64_t e = 0; e < model_.num_experts; ++e) {
        append(gate_up, e, "w1", inner, hidden);
        append(gate_up, e, "w3", inner, hidden);
        append(down, e, "w2", hidden, inner);
      }
      AddDense(layer + ".mlp.experts.gate_up_proj", gate_up,
               Shape{model_.num_experts, 2 * inner, hidden});
      AddDense(layer + ".mlp.experts.down_proj", down, Shape{model_.num_experts, hidden, inner});
      return;
    }
    const std::map<std::string, std::string> projections = {
        {"w1", "gate_proj"}, {"w2", "down_proj"}, {"w3", "up_proj"}};
    for (int64_t e = 0; e < model_.num_experts; ++e) {
      const std::string expert = published + std::to_string(e) + ".";
      for (const auto& [linear, projection] : projections) {
        const std::string& stored =
            model_.spelling == ExpertSpelling::kProjections ? projection : linear;
        const bool is_down = linear == "w2";
        AddLinear(expert + linear, expert + stored, is_down ? hidden : inner,
                  is_down ? inner : hidden, /*quantizable=*/true);
      }
    }
  }

  void AddAll() {
    const int64_t hidden = model_.hidden_size;
    const int64_t query = model_.num_heads * model_.head_dim;
    const int64_t kv = model_.num_kv_heads * model_.head_dim;
    AddLinear("model.embed_tokens", "model.embed_tokens", model_.vocab_size, hidden, false);
    for (int64_t index = 0; index < model_.num_layers; ++index) {
      const std::string layer = "model.layers." + std::to_string(index);
      const std::string attention = layer + ".self_attn.";
      AddNorm(layer + ".input_layernorm");
      AddNorm(layer + ".post_attention_layernorm");
      AddLinear(attention + "q_proj", attention + "q_proj", query, hidden, true);
      AddLinear(attention + "k_proj", attention + "k_proj", kv, hidden, true);
      AddLinear(attention + "v_proj", attention + "v_proj", kv, hidden, true);
      AddLinear(attention + "o_proj", attention + "o_proj", hidden, query, true);
      const bool fused = model_.spelling == ExpertSpelling::kFused;
      AddLinear(layer + ".block_sparse_moe.gate",
                layer + (fused ? ".mlp.gate" : ".block_sparse_moe.gate"), model_.num_experts,
                hidden, false);
      AddExperts(layer);
    }
    AddNorm("model.norm");
    if (!model_.tie_word_embeddings) {
      AddLinear("lm_head", "lm_head", model_.vocab_size, hidden, false);
    }
  }

  Json Config() const {
    Json config = {{"architectures", {"MixtralForCausalLM"}},
                   {"bos_token_id", 1},
                   {"eos_token_id", 2},
                   {"hidden_act", "silu"},
                   {"hidden_size", model_.hidden_size},
                   {"intermediate_size", model_.intermediate_size},
                   {"max_position_embeddings", model_.max_positions},
                   {"model_type", "mixtral"},
                   {"num_attention_heads", model_.num_heads},
                   {"num_experts_per_tok", model_.num_experts_per_token},
                   {"num_hidden_layers", model_.num_layers},
                   {"num_key_value_heads", model_.num_kv_heads},
                   {"num_local_experts", model_.num_experts},
                   {"rms_norm_eps", 1e-5},
                   {"rope_theta", model_.rope_theta},
                   {"sliding_window", nullptr},
                   {"tie_word_embeddings", model_.tie_word_embeddings},
                   {"torch_dtype", model_.dtype == DType::kF32   ? "float32"
                                   : model_.dtype == DType::kF16 ? "float16"
                                                                 : "bfloat16"},
                   {"vocab_size", model_.vocab_size}};
    if (model_.sliding_window > 0) config["sliding_window"] = model_.sliding_window;
    if (model_.head_dim * model_.num_heads != model_.hidden_size) {
      config["head_dim"] = model_.head_dim;
    }
    if (model_.bits != 0) {
      QuantConfig quant;
      quant.bits = model_.bits;
      quant.group_size = model_.group_size;
      quant.ignore = {"lm_head", "re:.*block_sparse_moe.gate$"};
      config["quantization_config"] = QuantConfigToJson(quant);
    }
    return config;
  }

  const RandomMixtral& model_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace

void WriteRandomMixtral(const RandomMixtral& model, const std::filesystem::path& directory) {
  Writer(model).WriteTo(directory);
}

void EditTensors(const std::filesystem::path& directory,
                 const std::function<void(std::map<std::string, Tensor>& tensors)>& edit) {
  std::map<std::string, Tensor> tensors;
  {
    const Checkpoint checkpoint(directory);
    for (const std::string& name : checkpoint.names()) {
      tensors.emplace(name, Tensor::Copy(checkpoint.Get(name)));
    }
  }
  edit(tensors);
  std::vector<std::pair<std::string, TensorView>> views;
  for (const auto& [name, tensor] : tensors) views.emplace_back(name, tensor.view());
  WriteSafetensors(directory / "model.safetensors", views);
}

void EditConfig(const std::filesystem::path& directory,
                const std::function<void(Json& config)>& edit) {
  const std::string path = (directory / "config.json").string();
  Json config = ReadJsonFile(path);
  edit(config);
  WriteTextFile(path, config.dump());
}

std::vector<int32_t> RandomTokens(int64_t count, int64_t vocab_size, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(generator() % static_cast<uint64_t>(vocab_size));
  }
  return tokens;
}

// Element 0 of the hidden state is zero but for token 7, for which experts of layer 1 overflow.
RandomMixtral BrokenForTokenSeven() {
  RandomMixtral random;
  random.num_layers = 3;  // later tokens attend to what is broken
  random.edit = [](const std::string& name, std::vector<float>& values) {
    constexpr size_t kHidden = 48;
    const auto ends_with = [&](const char* suffix) { return name.ends_with(suffix); };
    if (ends_with("embed_tokens.weight")) {
      for (size_t row = 0; row * kHidden < values.size(); ++row) {
        values[row * kHidden] = row == 7 ? 5.0f : 0.0f;
      }
    }
    if (ends_with("o_proj.weight")) std::fill_n(values.begin(), 72, 0.0f);  // outputs 0
    if (ends_with("w2.weight")) std::fill_n(values.begin(), 72, 0.0f);
    if (name.starts_with("model.layers.1.") && (ends_with("w1.weight") || ends_with("w3.weight"))) {
      for (size_t i = 0; i < values.size(); i += kHidden) values[i] = 3e37f;
    }
  };
  return random;
}

}  // namespace nibble::testing
