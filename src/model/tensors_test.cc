#include "model/tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig SmallMixtral() {
  ModelConfig config;
  config.where = "config.json";
  config.model_type = "mixtral";
  config.hidden_size = 48;
  config.intermediate_size = 72;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 12;
  config.num_layers = 2;
  config.num_experts = 2;
  config.num_experts_per_token = 1;
  config.vocab_size = 101;
  return config;
}

TEST(Tensors, AreListedAsTheFamilyPublishesThem) {
  std::vector<std::string> names;
  for (const TensorSpec& tensor : TensorsOf(SmallMixtral())) {
    names.push_back(tensor.module + " " + tensor.shape().ToString());
  }
  std::vector<std::string> expected = {"model.embed_tokens [101, 48]"};
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* rest :
         {"input_layernorm [48]", "self_attn.q_proj [72, 48]", "self_attn.k_proj [24, 48]",
          "self_attn.v_proj [24, 48]", "self_attn.o_proj [48, 72]", "post_attention_layernorm [48]",
          "block_sparse_moe.gate [2, 48]", "block_sparse_moe.experts.0.w1 [72, 48]",
          "block_sparse_moe.experts.0.w2 [48, 72]", "block_sparse_moe.experts.0.w3 [72, 48]",
          "block_sparse_moe.experts.1.w1 [72, 48]", "block_sparse_moe.experts.1.w2 [48, 72]",
          "block_sparse_moe.experts.1.w3 [72, 48]"}) {
      expected.push_back(std::string(layer) + rest);
    }
  }
  expected.push_back("model.norm [48]");
  expected.push_back("lm_head [101, 48]");
  EXPECT_EQ(names, expected);
}

TEST(Tensors, OfALayerKnowWhatTheyRead) {
  std::vector<Tap> taps;
  for (const TensorSpec& tensor : LayerLinears(SmallMixtral(), 1)) {
    EXPECT_EQ(tensor.layer, 1);
    taps.push_back(tensor.tap);
  }
  EXPECT_THAT(taps, ElementsAre(Tap::kAttentionInput, Tap::kAttentionInput, Tap::kAttentionInput,
                                Tap::kAttentionOutput, Tap::kExpertInput, Tap::kExpertMiddle,
                                Tap::kExpertInput, Tap::kExpertInput, Tap::kExpertMiddle,
                                Tap::kExpertInput));
}

TEST(Tensors, AreFoundByAnySpelling) {
  const ModelConfig config = SmallMixtral();
  for (const auto& [name, part] :
       {std::pair{"model.layers.1.block_sparse_moe.experts.0.w3.weight_packed", Part::kUp},
        {"model.layers.10.block_sparse_moe.experts.123.up_proj.weight", Part::kUp},
        {"model.layers.0.mlp.experts.gate_up_proj", Part::kGate},
        {"model.layers.0.mlp.gate.weight", Part::kRouter},
        {"model.norm.weight", Part::kFinalNorm},
        {"lm_head.weight", Part::kHead}}) {
    EXPECT_EQ(PartOf(config, name), part) << name;
  }
  for (const char* name : {"model.layers.x.mlp.gate.weight", "model.layers..mlp.gate.weight",
                           "model.layers.0.mlp.gate_.weight", "mtp.fc.weight", "", "lm_head"}) {
    EXPECT_EQ(PartOf(config, name), std::nullopt) << name;
  }
}

TEST(Family, NamesTheFamiliesThereAre) {
  ModelConfig config = SmallMixtral();
  config.model_type = "gpt2";
  try {
    SpecOf(config);
    FAIL() << "read";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("model_type: nibble runs mixtral, found \"gpt2\""));
  }
}

}  // namespace
}  // namespace nibble
