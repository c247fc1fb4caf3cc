#include "quantize/output/output_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using nibble::testing::EditConfig;
using nibble::testing::EditTensors;
using nibble::testing::RandomMixtral;
using nibble::testing::TemporaryDirectory;
using nibble::testing::WriteRandomMixtral;
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
  EXPECT_EQ(plan.units()[OutputPlan::UnitOfLayer(1)].name, "model.layers.1");
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

// A model whose config.json ties its tables, though a head is stored.
TEST_F(OutputPlanTest, AHeadThatIsNotTiedIsKeptAndTheTieGoes) {
  WriteRandomMixtral({}, directory_.path());
  EditConfig(directory_.path(), [](Json& config) { config["tie_word_embeddings"] = true; });
  recipe_.group_size = 24;
  const Checkpoint differs(directory_.path());
  const OutputPlan plan(differs, recipe_);
  EXPECT_EQ(plan.units().back().tensors.back().name, "lm_head.weight");
  EXPECT_EQ(Json::parse(plan.ConfigJson())["tie_word_embeddings"], false);
  EXPECT_THAT(plan.dropped(), IsEmpty());

  EditTensors(directory_.path(), [](auto& tensors) {
    tensors["lm_head.weight"] = Tensor::Copy(tensors["model.embed_tokens.weight"].view());
  });
  const Checkpoint equal(directory_.path());
  const OutputPlan tied(equal, recipe_);
  EXPECT_EQ(tied.units().back().tensors.size(), 1u);
  EXPECT_EQ(Json::parse(tied.ConfigJson())["tie_word_embeddings"], true);
  EXPECT_THAT(tied.dropped(), IsEmpty());

  EditTensors(directory_.path(), [](auto& tensors) { tensors.erase("model.embed_tokens.weight"); });
  const Checkpoint only_head(directory_.path());
  const OutputPlan renamed(only_head, recipe_);
  EXPECT_EQ(renamed.SourceOf(Find(renamed, "model.embed_tokens.weight")).data(),
            only_head.Get("lm_head.weight").data());
  EXPECT_THAT(renamed.dropped(), IsEmpty());
}

// What is stored, what config.json says ("": nothing), what the output has.
TEST_F(OutputPlanTest, HasTheFloatTypeThatConfigJsonStates) {
  const struct {
    DType stored;
    std::string stated;
    DType expected;
  } cases[] = {
      {DType::kBF16, "bfloat16", DType::kBF16}, {DType::kBF16, "float16", DType::kF16},
      {DType::kBF16, "float32", DType::kBF16},  {DType::kBF16, "", DType::kBF16},
      {DType::kF16, "bfloat16", DType::kBF16},  {DType::kF16, "float16", DType::kF16},
      {DType::kF16, "float32", DType::kBF16},   {DType::kF16, "", DType::kF16},
      {DType::kF32, "bfloat16", DType::kBF16},  {DType::kF32, "float16", DType::kF16},
      {DType::kF32, "float32", DType::kBF16},   {DType::kF32, "", DType::kBF16},
  };
  for (const auto& [stored, stated, expected] : cases) {
    for (const std::string key : {"torch_dtype", "dtype"}) {
      RandomMixtral model;
      model.dtype = stored;
      WriteRandomMixtral(model, directory_.path());
      EditConfig(directory_.path(), [&](Json& config) {
        config.erase("torch_dtype");
        if (!stated.empty()) config[key] = stated;
      });
      const Checkpoint source(directory_.path());
      recipe_.group_size = 24;
      const OutputPlan plan(source, recipe_);
      EXPECT_EQ(plan.dtype(), expected);
      EXPECT_EQ(plan.stored_dtype(), stored);
      for (const char* tensor :
           {"model.embed_tokens.weight", "model.layers.1.input_layernorm.weight",
            "model.layers.0.block_sparse_moe.gate.weight", "lm_head.weight",
            "model.layers.0.self_attn.q_proj.weight_scale"}) {
        EXPECT_EQ(Find(plan, tensor).dtype, expected) << tensor;
      }
      const Json config = Json::parse(plan.ConfigJson());
      EXPECT_EQ(ParseModelConfig(config, "config.json").dtype, expected);
      EXPECT_EQ(config.contains("torch_dtype") && config.contains("dtype"), false);
    }
  }
}

TEST_F(OutputPlanTest, CorrectsBothKeysOfTheType) {
  WriteRandomMixtral({}, directory_.path());
  EditConfig(directory_.path(), [](Json& config) {
    config["torch_dtype"] = "float16";
    config["dtype"] = "float32";
  });
  const Checkpoint source(directory_.path());
  recipe_.group_size = 24;
  const Json config = Json::parse(OutputPlan(source, recipe_).ConfigJson());
  EXPECT_EQ(config["dtype"], "bfloat16");
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
}

TEST_F(OutputPlanTest, CastsKeptTensorsAndNamesWhatIsNotFinite) {
  RandomMixtral model;
  model.dtype = DType::kF16;
  const OutputPlan plan(Source(model), recipe_);
  const auto keep = [&](const std::vector<float>& values, DType dtype) {
    UnitTensors tensors(plan);
    const Tensor tensor = FromFloat(values, dtype, Shape{2, 2});
    try {
      tensors.AddKept("m.weight", tensor.view());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
      return std::string(error.what());
    }
    EXPECT_EQ(tensors.views()[0].dtype(), DType::kF16);
    EXPECT_THAT(ToFloat(tensors.views()[0]), ::testing::ElementsAreArray(values));
    return std::string("kept");
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    EXPECT_EQ(keep({1, -2, 0.5, 0}, dtype), "kept");
    EXPECT_THAT(keep({1, -2, nan, 0}, dtype), HasSubstr("m.weight: element [1, 0] is nan"));
  }
  EXPECT_THAT(keep({1, 65536, 0, 0}, DType::kBF16),
              HasSubstr("m.weight: element [0, 1] is 65536, too large for the float16"));
}

TEST_F(OutputPlanTest, CastsTensorsOfManyPieces) {
  const OutputPlan plan(Source({}), recipe_);
  std::vector<float> values(2'500'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const Shape shape{2'500, 1'000};
  const Tensor tensor = FromFloat(values, DType::kF32, shape);
  UnitTensors tensors(plan);
  tensors.AddKept("m.weight", tensor.view());
  EXPECT_TRUE(std::ranges::equal(tensors.views()[0].bytes(),
                                 FromFloat(values, DType::kBF16, shape).view().bytes()));
}

TEST_F(OutputPlanTest, FingerprintsOfUnitsSeeEveryByte) {
  const Checkpoint& source = Source({});
  const OutputPlan plan(source, recipe_);
  const auto digest = [&](const std::vector<float>& values) {
    UnitTensors tensors(plan);
    const Tensor tensor = FromFloat(values, DType::kBF16, Shape{3});
    tensors.AddKept("m.weight", tensor.view());
    return tensors.Sha256();
  };
  EXPECT_EQ(digest({1, 2, 3}), digest({1, 2, 3}));
  EXPECT_NE(digest({1, 2, 3}), digest({1, 2, 4}));
}

}  // namespace
}  // namespace nibble
