#include "quantize/nearest_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/model_config.h"
#include "model/tensors.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> Modules() {
  ModelConfig config;
  config.model_type = "mixtral";
  config.num_layers = 12;
  config.num_experts = 2;
  config.hidden_size = 32;
  config.intermediate_size = 48;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.vocab_size = 100;
  std::vector<std::string> modules;
  for (const TensorSpec& spec : TensorsOf(config)) {
    if (spec.is_linear()) modules.push_back(spec.module);
  }
  return modules;
}

TEST(NearestNames, TheNearestNameComesFirst) {
  const auto first = [](const char* pattern) { return NearestNames(pattern, Modules()).front(); };
  EXPECT_EQ(first("lm_haed"), "lm_head");
  EXPECT_EQ(first("model.layers.3.self_attn.q_porj"), "model.layers.3.self_attn.q_proj");
  EXPECT_EQ(first("model.layers.3.block_sparse_moe.experts.1.w4"),
            "model.layers.3.block_sparse_moe.experts.1.w1");
  EXPECT_EQ(first("re:.*block_sparse_moe\\.gates$"), "model.layers.0.block_sparse_moe.gate");
  EXPECT_EQ(first("re:model\\.layers\\.(0|1)\\.self_attention\\.o_proj"),
            "model.layers.0.self_attn.o_proj");
}

TEST(NearestNames, ALinearOfAnotherLayerIsNoOtherName) {
  EXPECT_THAT(NearestNames("model.layers.7.block_sparse_moe.experts.0.w", Modules()),
              ElementsAre("model.layers.7.block_sparse_moe.experts.0.w1",
                          "model.layers.7.block_sparse_moe.experts.0.w2",
                          "model.layers.7.block_sparse_moe.experts.0.w3"));
  EXPECT_THAT(NearestNames("x", {}), IsEmpty());
  EXPECT_THAT(NearestNames("re:", {"b", "a"}), ElementsAre("b", "a"));
}

}  // namespace
}  // namespace nibble
