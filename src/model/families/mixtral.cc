#include "model/families/families.h"

// Mixtral: every layer attends and routes to two of its experts. Published names are those of the
// first checkpoints; llm-compressor 0.14 spells experts gate_proj, up_proj, down_proj, and
// transformers 5 moves them below mlp and stacks them.
namespace nibble::families {
namespace {

ModelSpec Read(const ModelConfig& config) {
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
  spec.layers.assign(config.num_layers, layer);
  spec.norm_eps = eps;
  return spec;
}

}  // namespace

const Family& Mixtral() {
  static const Family family = {
      .model_type = "mixtral",
      .title = "Mixtral",
      .layer = "model.layers.{l}",
      .router_hint = R"(re:.*block_sparse_moe\.gate$)",
      .tensors =
          {{Part::kEmbedding, {"model.embed_tokens"}},
           {Part::kInputNorm, {"model.layers.{l}.input_layernorm"}},
           {Part::kQ, {"model.layers.{l}.self_attn.q_proj"}},
           {Part::kK, {"model.layers.{l}.self_attn.k_proj"}},
           {Part::kV, {"model.layers.{l}.self_attn.v_proj"}},
           {Part::kOut, {"model.layers.{l}.self_attn.o_proj"}},
           {Part::kMlpNorm, {"model.layers.{l}.post_attention_layernorm"}},
           {Part::kRouter, {"model.layers.{l}.block_sparse_moe.gate", "model.layers.{l}.mlp.gate"}},
           {Part::kGate,
            {"model.layers.{l}.block_sparse_moe.experts.{e}.w1",
             "model.layers.{l}.block_sparse_moe.experts.{e}.gate_proj",
             "model.layers.{l}.mlp.experts.{e}.gate_proj", "model.layers.{l}.mlp.experts.{e}.w1"}},
           {Part::kDown,
            {"model.layers.{l}.block_sparse_moe.experts.{e}.w2",
             "model.layers.{l}.block_sparse_moe.experts.{e}.down_proj",
             "model.layers.{l}.mlp.experts.{e}.down_proj", "model.layers.{l}.mlp.experts.{e}.w2"}},
           {Part::kUp,
            {"model.layers.{l}.block_sparse_moe.experts.{e}.w3",
             "model.layers.{l}.block_sparse_moe.experts.{e}.up_proj",
             "model.layers.{l}.mlp.experts.{e}.up_proj", "model.layers.{l}.mlp.experts.{e}.w3"}},
           {Part::kFinalNorm, {"model.norm"}},
           {Part::kHead, {"lm_head"}}},
      .fusions = {{"model.layers.{l}.mlp.experts.gate_up_proj", {Part::kGate, Part::kUp}},
                  {"model.layers.{l}.block_sparse_moe.experts.gate_up_proj",
                   {Part::kGate, Part::kUp}},
                  {"model.layers.{l}.mlp.experts.down_proj", {Part::kDown}},
                  {"model.layers.{l}.block_sparse_moe.experts.down_proj", {Part::kDown}}},
      .read = Read,
  };
  return family;
}

}  // namespace nibble::families
