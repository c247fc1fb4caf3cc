#include "checkpoint/quant_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/module_pattern.h"
#include "nibble/error.h"
#include "tests/support/reference_data.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The default recipe as docs/formats.md#quantization_config shows it.
constexpr char kDefault[] = R"({
  "config_groups": {"group_0": {
    "input_activations": null, "output_activations": null, "targets": ["Linear"],
    "weights": {"actorder": null, "block_structure": null, "dynamic": false, "group_size": 128, "num_bits": 4,
      "observer": "minmax", "observer_kwargs": {}, "strategy": "group", "symmetric": true, "type": "int"}}},
  "format": "pack-quantized", "global_compression_ratio": null,
  "ignore": ["model.layers.0.block_sparse_moe.gate", "lm_head"],
  "kv_cache_scheme": null, "quant_method": "compressed-tensors", "quantization_status": "compressed"})";

QuantConfig Parse(const Json& quantization_config) {
  const auto config =
      ParseQuantConfig({{"quantization_config", quantization_config}}, "config.json");
  return config ? *config : throw Error(ErrorCode::kInternal, "no quantization_config found");
}

Json Default() { return ParseJson(kDefault, "default"); }

// The default with one member (a JSON pointer) replaced.
Json With(const char* pointer, const char* value) {
  Json config = Default();
  config[Json::json_pointer(pointer)] = ParseJson(value, "value");
  return config;
}

constexpr char kWeights[] = "/config_groups/group_0/weights";
std::string Weights(const char* key) { return std::string(kWeights) + "/" + key; }

TEST(ParseQuantConfig, FindsNoneInAPlainModel) {
  EXPECT_FALSE(ParseQuantConfig(Json::object(), "config.json").has_value());
  EXPECT_FALSE(ParseQuantConfig({{"quantization_config", nullptr}}, "config.json").has_value());
}

TEST(ParseQuantConfig, ReadsTheDefaultRecipe) {
  const QuantConfig config = Parse(Default());
  EXPECT_EQ(config.bits, 4);
  EXPECT_EQ(config.group_size, 128);
  EXPECT_TRUE(config.symmetric);
  EXPECT_EQ(config.act_order, ActOrder::kNone);
  EXPECT_EQ(config.observer, "minmax");
  EXPECT_THAT(config.targets, ElementsAre("Linear"));
  EXPECT_THAT(config.ignore, ElementsAre("model.layers.0.block_sparse_moe.gate", "lm_head"));
}

TEST(ParseQuantConfig, ReadsTheFormsOfOtherVersions) {
  EXPECT_EQ(Parse(With(Weights("num_bits").c_str(), "8")).bits, 8);
  EXPECT_FALSE(Parse(With(Weights("symmetric").c_str(), "false")).symmetric);
  EXPECT_EQ(Parse(With(Weights("actorder").c_str(), "\"group\"")).act_order, ActOrder::kGroup);
  EXPECT_EQ(Parse(With(Weights("actorder").c_str(), "\"dynamic\"")).act_order, ActOrder::kGroup);
  EXPECT_EQ(Parse(With(Weights("actorder").c_str(), "true")).act_order, ActOrder::kGroup);
  EXPECT_EQ(Parse(With(Weights("actorder").c_str(), "\"weight\"")).act_order, ActOrder::kStatic);
  EXPECT_EQ(Parse(With(Weights("actorder").c_str(), "\"static\"")).act_order, ActOrder::kStatic);
  EXPECT_EQ(Parse(With(Weights("actorder").c_str(), "false")).act_order, ActOrder::kNone);
  EXPECT_EQ(Parse(With(Weights("strategy").c_str(), "null")).group_size, 128);
  EXPECT_EQ(Parse(With(Weights("group_size").c_str(), "32")).group_size, 32);
  EXPECT_EQ(Parse(With(Weights("scale_dtype").c_str(), "\"torch.bfloat16\"")).bits, 4);
  EXPECT_EQ(Parse(With("/config_groups/group_0/format", "\"pack-quantized\"")).bits, 4);
  EXPECT_EQ(Parse(With("/format", "\"mixed-precision\"")).bits, 4);
  EXPECT_EQ(Parse(With("/version", "\"0.19.0\"")).bits, 4);
  EXPECT_EQ(Parse(With("/sparsity_config", "{}")).bits, 4);
  EXPECT_EQ(Parse(With("/transform_config", "{}")).bits, 4);
  EXPECT_EQ(Parse(With("/global_compression_ratio", "2.1")).bits, 4);

  Json channel = Default();
  Json& weights = channel["config_groups"]["group_0"]["weights"];
  weights["strategy"] = "channel";
  weights["group_size"] = nullptr;
  EXPECT_EQ(Parse(channel).group_size, -1);
  weights["strategy"] = nullptr;
  weights["group_size"] = -1;
  EXPECT_EQ(Parse(channel).group_size, -1);
}

TEST(ParseQuantConfig, ReadsPresetsAndEqualGroups) {
  const QuantConfig preset = Parse(With("/config_groups", R"({"W8A16": ["Linear"]})"));
  EXPECT_EQ(preset.bits, 8);
  EXPECT_EQ(preset.group_size, -1);
  EXPECT_FALSE(Parse(With("/config_groups", R"({"W4A16_ASYM": ["Linear"]})")).symmetric);
  Json two = Default();
  Json other = two["config_groups"]["group_0"];
  other["targets"] = {"re:.*w2$"};
  two["config_groups"]["group_1"] = other;
  EXPECT_THAT(Parse(two).targets, ElementsAre("Linear", "re:.*w2$"));
}

TEST(ParseQuantConfig, ReadsTheOldKey) {
  EXPECT_TRUE(ParseQuantConfig({{"compression_config", Default()}}, "config.json").has_value());
}

TEST(ParseQuantConfig, NamesTheFieldItCannotDo) {
  constexpr auto kInvalid = ErrorCode::kInvalidData;
  constexpr auto kUnsupported = ErrorCode::kUnsupported;
  const struct {
    std::string pointer;
    const char* value;
    ErrorCode code;
    const char* message;
  } cases[] = {
      {"/quant_method", "\"gptq\"", kUnsupported,
       "quant_method: expected compressed-tensors, found \"gptq\""},
      {"/format", "\"marlin-24\"", kUnsupported,
       "format: expected pack-quantized, found \"marlin-24\""},
      {"/config_groups/group_0/format", "\"int-quantized\"", kUnsupported,
       "\"group_0\": format: expected"},
      {"/sparsity_config", "{\"format\": \"sparse-bitmask\"}", kUnsupported,
       "sparsity_config: expected nothing"},
      {"/config_groups", "{}", kInvalid,
       "config_groups: expected an object with at least one group"},
      {"/config_groups", "null", kInvalid, "config_groups is missing"},
      {"/config_groups", "{\"W4A4\": [\"Linear\"]}", kUnsupported, "\"W4A4\": expected the preset"},
      {"/config_groups", "{\"group_0\": 1}", kInvalid, "\"group_0\": expected an object"},
      {"/config_groups/group_1",
       R"({"targets": ["x"], "weights": {"num_bits": 8, "group_size": 128}})", kUnsupported,
       "expected one scheme for the whole model"},
      {"/config_groups/group_0/input_activations", "{\"num_bits\": 8}", kUnsupported,
       "input_activations: nibble runs weight-only schemes"},
      {kWeights, "null", kInvalid, "weights is missing"},
      {kWeights, "[]", kInvalid, "weights: expected an object"},
      {Weights("num_bits"), "3", kUnsupported, "weights: num_bits: expected 4 or 8, found 3"},
      {Weights("num_bits"), "null", kInvalid, "num_bits is missing"},
      {Weights("type"), "\"float\"", kUnsupported, "type: expected int, found \"float\""},
      {Weights("dynamic"), "true", kUnsupported, "dynamic: expected false, found true"},
      {Weights("block_structure"), "[128, 128]", kUnsupported, "block_structure: expected null"},
      {Weights("strategy"), "\"tensor\"", kUnsupported,
       "strategy: expected group or channel, found \"tensor\""},
      {Weights("strategy"), "\"channel\"", kInvalid,
       "group_size: strategy channel has none, found 128"},
      {Weights("group_size"), "0", kInvalid, "group_size: expected a positive number, found 0"},
      {Weights("group_size"), "-1", kInvalid, "group_size: expected a positive number, found -1"},
      {Weights("group_size"), "null", kInvalid, "group_size is missing"},
      {Weights("symmetric"), "\"yes\"", kInvalid, "symmetric: expected true or false"},
      {Weights("actorder"), "\"random\"", kUnsupported, "actorder: expected null, group or weight"},
      {"/ignore", "\"lm_head\"", kInvalid, "ignore: expected a list of names"},
      {"/ignore", "[1]", kInvalid, "ignore: expected names, found 1"},
  };
  for (const auto& [pointer, value, code, message] : cases) {
    try {
      Parse(With(pointer.c_str(), value));
      ADD_FAILURE() << "accepted " << pointer << " = " << value;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("config.json: quantization_config"));
      EXPECT_THAT(error.what(), HasSubstr(message));
    }
  }
  EXPECT_THROW(Parse(Json(7)), Error);
  EXPECT_THROW(ParseQuantConfig(Json::array(), "config.json"), Error);
}

TEST(ParseQuantConfig, DoesNotGoByTheStatus) {
  for (const char* status : {"\"frozen\"", "\"initialized\"", "\"anything\"", "null", "3"}) {
    EXPECT_EQ(Parse(With("/quantization_status", status)).bits, 4) << status;
  }
}

TEST(ParseQuantConfig, RemembersASchemeForTheCache) {
  EXPECT_FALSE(Parse(Default()).has_kv_cache_scheme);
  EXPECT_TRUE(
      Parse(With("/kv_cache_scheme", R"({"num_bits": 8, "type": "float"})")).has_kv_cache_scheme);
}

// Reading a model does not depend on its list of modules: an expression that is invalid, or that
// nibble does not support, is no reason to refuse it.
TEST(ParseQuantConfig, TakesPatternsAsTheyAre) {
  for (const char* pattern : {"re:.*(?<!proj)\\.gate$", "re:(?i).*GATE$", "re:("}) {
    Json config = Default();
    config["ignore"] = {pattern};
    config["config_groups"]["group_0"]["targets"] = {pattern};
    EXPECT_THAT(Parse(config).ignore, ElementsAre(pattern));
    EXPECT_THAT(Parse(config).targets, ElementsAre(pattern));
  }
}

TEST(QuantConfigToJson, WritesTheDocumentedObjectKeyForKey) {
  EXPECT_EQ(QuantConfigToJson(Parse(Default())).dump(2), Default().dump(2));
}

TEST(QuantConfigToJson, IsReadBackEqual) {
  for (const int bits : {4, 8}) {
    for (const int64_t group_size : {-1, 32, 128}) {
      for (const bool symmetric : {true, false}) {
        for (const ActOrder order : {ActOrder::kNone, ActOrder::kStatic, ActOrder::kGroup}) {
          QuantConfig config;
          config.bits = bits;
          config.group_size = group_size;
          config.symmetric = symmetric;
          config.act_order = order;
          config.observer = "mse";
          config.ignore = {"a", "re:b.*"};
          const QuantConfig again = Parse(QuantConfigToJson(config));
          EXPECT_EQ(again.bits, bits);
          EXPECT_EQ(again.group_size, group_size);
          EXPECT_EQ(again.symmetric, symmetric);
          EXPECT_EQ(again.act_order, order == ActOrder::kStatic ? ActOrder::kNone : order);
          EXPECT_EQ(again.observer, "mse");
          EXPECT_EQ(again.ignore, config.ignore);
        }
      }
    }
  }
}

TEST(ParseQuantConfig, ReadsTheConfigsOfLlmCompressor) {
  for (const char* name :
       {"llmcompressor_w4a16", "llmcompressor_w4a16_all_experts", "llmcompressor_w4a16_v041"}) {
    NIBBLE_REQUIRE_REFERENCE(std::filesystem::path("golden/tinymix") / name);
    const std::string path = testing::ReferenceData() / "golden/tinymix" / name / "config.json";
    const QuantConfig config = Parse(ReadJsonFile(path)["quantization_config"]);
    EXPECT_EQ(config.bits, 4);
    EXPECT_EQ(config.group_size, 128);
    EXPECT_TRUE(config.symmetric);
    EXPECT_EQ(config.act_order, ActOrder::kNone);
    const std::vector<ModulePattern> ignore = CompilePatterns(config.ignore);
    EXPECT_TRUE(MatchesAny(ignore, "lm_head"));
    EXPECT_TRUE(MatchesAny(ignore, "model.layers.3.block_sparse_moe.gate")) << name;
    EXPECT_FALSE(MatchesAny(ignore, "model.layers.3.self_attn.q_proj"));
  }
}

}  // namespace
}  // namespace nibble
