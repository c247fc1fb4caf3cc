#include "quantize/output/output_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using nibble::testing::RandomMixtral;
using nibble::testing::TemporaryDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class OutputPlanTest : public ::testing::Test {
 protected:
  const Checkpoint& Source(const RandomMixtral& model) {
    WriteRandomMixtral(model, directory_.path());
    source_ = std::make_unique<Checkpoint>(directory_.path());
    recipe_.group_size = 24;
    return *source_;
  }

  static const TensorPlan& Find(const OutputPlan& plan, const std::string& name) {
    for (const UnitPlan& unit : plan.units()) {
      for (const TensorPlan& tensor : unit.tensors) {
        if (tensor.name == name) return tensor;
      }
    }
    throw std::runtime_error("no " + name);
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Checkpoint> source_;
  Recipe recipe_;
};

TEST_F(OutputPlanTest, NamesShapesAndTypesOfEveryVariant) {
  const Checkpoint& source = Source({});
  const std::string linear = "model.layers.1.block_sparse_moe.experts.4.w2";
  for (const bool symmetric : {true, false}) {
    for (const int bits : {4, 8}) {
      recipe_.symmetric = symmetric;
      recipe_.bits = bits;
      const OutputPlan plan(source, recipe_);
      EXPECT_EQ(Find(plan, linear + ".weight_packed").shape, (Shape{48, 72 * bits / 32}));
      EXPECT_EQ(Find(plan, linear + ".weight_scale").shape, (Shape{48, 3}));
      EXPECT_EQ(Find(plan, linear + ".weight_scale").dtype, DType::kBF16);
      EXPECT_EQ(Find(plan, linear + ".weight_shape").dtype, DType::kI64);
      if (symmetric) {
        EXPECT_ANY_THROW(Find(plan, linear + ".weight_zero_point"));
      } else {
        EXPECT_EQ(Find(plan, linear + ".weight_zero_point").shape, (Shape{48 * bits / 32, 3}));
      }
      EXPECT_ANY_THROW(Find(plan, linear + ".weight_g_idx"));
    }
  }
  recipe_.act_order = ActOrder::kGroup;
  EXPECT_EQ(Find(OutputPlan(source, recipe_), linear + ".weight_g_idx").shape, (Shape{72}));
}

TEST_F(OutputPlanTest, UnitsAreTheEmbeddingTheLayersAndTheHead) {
  const Checkpoint& source = Source({});
  const OutputPlan plan(source, recipe_);
  ASSERT_EQ(plan.units().size(), 4u);
  EXPECT_EQ(plan.units()[static_cast<size_t>(OutputPlan::UnitOfLayer(1))].name, "model.layers.1");
  EXPECT_EQ(plan.units().front().tensors.front().name, "model.embed_tokens.weight");
  EXPECT_EQ(plan.units().back().tensors.back().name, "lm_head.weight");
  EXPECT_THAT(plan.dropped(), IsEmpty());
  const Json config = Json::parse(plan.ConfigJson());
  EXPECT_EQ(config["quantization_config"]["quant_method"], "compressed-tensors");
  EXPECT_EQ(
      config["quantization_config"]["ignore"].dump(),
      R"(["model.layers.0.block_sparse_moe.gate","model.layers.1.block_sparse_moe.gate","lm_head"])");
}

TEST_F(OutputPlanTest, TiedEmbeddingsHaveNoHead) {
  RandomMixtral model;
  model.tie_word_embeddings = true;
  const OutputPlan plan(Source(model), recipe_);
  EXPECT_EQ(plan.units().back().tensors.size(), 1u);
}

TEST_F(OutputPlanTest, SinglePrecisionBecomesBfloat16AndSaysSo) {
  RandomMixtral model;
  model.dtype = DType::kF32;
  const OutputPlan plan(Source(model), recipe_);
  EXPECT_TRUE(plan.converts_dense());
  EXPECT_EQ(Find(plan, "model.norm.weight").dtype, DType::kBF16);
  EXPECT_THAT(plan.ConfigJson(), HasSubstr("\"bfloat16\""));
}

TEST_F(OutputPlanTest, FingerprintsOfUnitsSeeEveryByte) {
  const Checkpoint& source = Source({});
  const OutputPlan plan(source, recipe_);
  const auto digest = [&](const std::vector<float>& values) {
    UnitTensors tensors(plan);
    const Tensor tensor = FromFloat(values, DType::kBF16, Shape{3});
    tensors.AddDense(tensor.view());
    return tensors.Sha256();
  };
  EXPECT_EQ(digest({1, 2, 3}), digest({1, 2, 3}));
  EXPECT_NE(digest({1, 2, 3}), digest({1, 2, 4}));
}

}  // namespace
}  // namespace nibble
