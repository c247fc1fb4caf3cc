#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/reference_data.h"

namespace nibble {
namespace {

TEST(Checkpoint, OpensTheDemonstrationModel) {
  NIBBLE_REQUIRE_REFERENCE("models/tinymix");
  const Checkpoint model(testing::ReferenceData() / "models/tinymix");
  EXPECT_EQ(model.names().size(), 127u);
  EXPECT_EQ(model.num_shards(), 2);
  EXPECT_EQ(model.config().num_parameters(), 12331264);
  EXPECT_EQ(model.total_bytes(), 2 * 12331264);
  EXPECT_FALSE(model.quant_config().has_value());
}

TEST(Checkpoint, ReadsThePackedTensorsOfLlmCompressor) {
  for (const char* name :
       {"llmcompressor_w4a16", "llmcompressor_w4a16_all_experts", "llmcompressor_w4a16_v041"}) {
    NIBBLE_REQUIRE_REFERENCE(std::filesystem::path("golden/tinymix") / name);
    const Checkpoint dense(testing::ReferenceData() / "models/tinymix");
    const Checkpoint packed(testing::ReferenceData() / "golden/tinymix" / name);
    const std::string module = "model.layers.0.self_attn.q_proj";
    const PackedView view = packed.GetPacked(module, 256, 256);
    const std::vector<float> weights = ToFloat(dense.Get(module + ".weight", {256, 256}));
    const std::vector<float> decoded = Dequantize(view);
    double worst = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(weights[i]) - decoded[i]));
    }
    EXPECT_LT(worst, 0.2) << name;
  }
}

}  // namespace
}  // namespace nibble
