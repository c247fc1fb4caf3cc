#include "checkpoint/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nibble/error.h"
#include "tests/support/reference_data.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// As transformers 4 wrote the published model.
Json Published() {
  return ParseJson(R"({
    "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 6144, "initializer_range": 0.02, "intermediate_size": 16384,
    "max_position_embeddings": 65536, "model_type": "mixtral", "num_attention_heads": 48,
    "num_experts_per_tok": 2, "num_hidden_layers": 56, "num_key_value_heads": 8, "num_local_experts": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "vocab_size": 32000})",
                   "published");
}

ModelConfig Parse(const Json& config) { return ParseModelConfig(config, "config.json"); }

// The published document with some members replaced; null removes nothing, it is JSON null.
Json With(const std::string& changes) {
  Json config = Published();
  const Json members = ParseJson(changes, "changes");
  for (const auto& [key, value] : members.items()) config[key] = value;
  return config;
}

TEST(ModelConfig, ReadsThePublishedModel) {
  const ModelConfig config = Parse(Published());
  EXPECT_EQ(config.vocab_size, 32000);
  EXPECT_EQ(config.hidden_size, 6144);
  EXPECT_EQ(config.intermediate_size, 16384);
  EXPECT_EQ(config.num_layers, 56);
  EXPECT_EQ(config.num_heads, 48);
  EXPECT_EQ(config.num_kv_heads, 8);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.num_experts, 8);
  EXPECT_EQ(config.num_experts_per_token, 2);
  EXPECT_EQ(config.max_positions, 65536);
  EXPECT_EQ(config.sliding_window, 0);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_EQ(config.bos_token_id, 1);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2));
  EXPECT_EQ(config.raw, Published());
  EXPECT_EQ(config.num_parameters(), 140'620'634'112);
}

TEST(ModelConfig, CountsTheParametersOfItsRelatives) {
  EXPECT_EQ(Parse(With(R"({"vocab_size": 32768})")).num_parameters(), 140'630'071'296);
  EXPECT_EQ(
      Parse(With(R"({"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
                           "num_hidden_layers": 32})"))
          .num_parameters(),
      46'702'792'704);
  EXPECT_EQ(Parse(With(R"({"tie_word_embeddings": true})")).num_parameters(),
            140'620'634'112 - int64_t{32000} * 6144);
}

TEST(ModelConfig, ReadsTheKeysOfTransformers5) {
  Json config = Published();
  for (const char* old : {"torch_dtype", "rope_theta"}) config.erase(old);
  config["dtype"] = "float16";
  config["rope_parameters"] = {{"rope_theta", 250000.0}, {"rope_type", "default"}};
  const ModelConfig parsed = Parse(config);
  EXPECT_EQ(parsed.dtype, DType::kF16);
  EXPECT_EQ(parsed.rope_theta, 250000.0);
}

TEST(ModelConfig, ReadsOptionalForms) {
  EXPECT_EQ(Parse(With(R"({"head_dim": 64})")).head_dim, 64);
  EXPECT_EQ(Parse(With(R"({"head_dim": null})")).head_dim, 128);
  EXPECT_EQ(Parse(With(R"({"sliding_window": 4096})")).sliding_window, 4096);
  EXPECT_EQ(Parse(With(R"({"num_key_value_heads": null})")).num_kv_heads, 48);
  EXPECT_EQ(Parse(With(R"({"torch_dtype": "torch.float32"})")).dtype, DType::kF32);
  EXPECT_EQ(Parse(With(R"({"torch_dtype": null})")).dtype, std::nullopt);
  EXPECT_EQ(Parse(With(R"({"rope_scaling": null})")).rope_theta, 1e6);
  EXPECT_EQ(Parse(With(R"({"rope_scaling": {"type": "default"}})")).rope_theta, 1e6);
  EXPECT_EQ(Parse(With(R"({"bos_token_id": null})")).bos_token_id, -1);
  EXPECT_THAT(Parse(With(R"({"eos_token_id": null})")).eos_token_ids, IsEmpty());
  EXPECT_THAT(Parse(With(R"({"eos_token_id": [2, 31999]})")).eos_token_ids, ElementsAre(2, 31999));
}

TEST(ModelConfig, NamesTheKeyThatIsWrong) {
  const struct {
    const char* changes;
    ErrorCode code;
    const char* message;
  } cases[] = {
      {R"({"model_type": null})", ErrorCode::kInvalidData, "model_type is missing"},
      {R"({"hidden_act": "gelu"})", ErrorCode::kUnsupported,
       "hidden_act: expected silu, found \"gelu\""},
      {R"({"vocab_size": null})", ErrorCode::kInvalidData, "vocab_size is missing"},
      {R"({"vocab_size": 0})", ErrorCode::kInvalidData,
       "vocab_size: expected 1 to 16777216, found 0"},
      {R"({"hidden_size": "6144"})", ErrorCode::kInvalidData,
       "hidden_size: expected an integer, found \"6144\""},
      {R"({"hidden_size": -1})", ErrorCode::kInvalidData, "hidden_size: expected 1 to"},
      {R"({"hidden_size": 6100})", ErrorCode::kInvalidData,
       "hidden_size 6100 is not a multiple of num_attention_heads 48, and head_dim is missing"},
      {R"({"intermediate_size": 1e9})", ErrorCode::kInvalidData,
       "intermediate_size: expected an integer"},
      {R"({"num_hidden_layers": 100000})", ErrorCode::kInvalidData,
       "num_hidden_layers: expected 1 to 65536"},
      {R"({"num_key_value_heads": 7})", ErrorCode::kInvalidData,
       "num_attention_heads 48 is not a multiple of num_key_value_heads 7"},
      {R"({"num_experts_per_tok": 9})", ErrorCode::kInvalidData,
       "num_experts_per_tok 9 exceeds num_local_experts 8"},
      {R"({"head_dim": 65})", ErrorCode::kInvalidData,
       "head_dim: rotary embedding needs an even number"},
      {R"({"sliding_window": 0})", ErrorCode::kInvalidData, "sliding_window: expected 1 to"},
      {R"({"rms_norm_eps": 0})", ErrorCode::kInvalidData,
       "rms_norm_eps: expected a number above 0"},
      {R"({"rms_norm_eps": "1e-5"})", ErrorCode::kInvalidData, "rms_norm_eps: expected a number"},
      {R"({"rope_theta": -5})", ErrorCode::kInvalidData, "rope_theta: expected a number above 0"},
      {R"({"rope_scaling": 4})", ErrorCode::kInvalidData, "rope_scaling: expected an object"},
      {R"({"rope_scaling": {"type": "yarn", "factor": 4}})", ErrorCode::kUnsupported,
       "rope_scaling: type: nibble knows the default rotary embedding only, found \"yarn\""},
      {R"({"rope_scaling": {"rope_type": "llama3"}})", ErrorCode::kUnsupported, "found \"llama3\""},
      {R"({"rope_parameters": {"rope_type": "linear", "factor": 2}})", ErrorCode::kUnsupported,
       "rope_parameters: rope_type"},
      {R"({"rope_parameters": {"partial_rotary_factor": 0.5}})", ErrorCode::kUnsupported,
       "partial_rotary_factor: expected 1, found 0.5"},
      {R"({"rope_parameters": {"full_attention": {"rope_theta": 1}}})", ErrorCode::kUnsupported,
       "\"full_attention\": one setting for all layers"},
      {R"({"torch_dtype": "float8_e4m3fn"})", ErrorCode::kUnsupported,
       "torch_dtype: expected bfloat16"},
      {R"({"tie_word_embeddings": 1})", ErrorCode::kInvalidData,
       "tie_word_embeddings: expected true or false"},
      {R"({"bos_token_id": 32000})", ErrorCode::kInvalidData,
       "bos_token_id: token 32000 lies outside the vocabulary of 32000"},
      {R"({"eos_token_id": [2, 18446744073709551615]})", ErrorCode::kInvalidData,
       "eos_token_id: token"},
      {R"({"eos_token_id": [2, -3]})", ErrorCode::kInvalidData,
       "eos_token_id: expected 0 to 31999, found -3"},
      {R"({"eos_token_id": "</s>"})", ErrorCode::kInvalidData, "eos_token_id: expected token ids"},
      {R"({"num_hidden_layers": 65536, "num_local_experts": 65536, "intermediate_size": 16777216})",
       ErrorCode::kInvalidData, "more than 10^15 parameters"},
  };
  for (const auto& [changes, code, message] : cases) {
    try {
      Parse(With(changes));
      ADD_FAILURE() << "accepted " << changes;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("config.json: "));
      EXPECT_THAT(error.what(), HasSubstr(message));
    }
  }
  EXPECT_THROW(Parse(Json::array()), Error);
}

TEST(ReadModelConfig, ReadsTheRealConfigs) {
  NIBBLE_REQUIRE_REFERENCE("tokenizers/mixtral-8x22b/config.json");
  const ModelConfig large = ReadModelConfig(testing::ReferenceData() / "tokenizers/mixtral-8x22b");
  EXPECT_EQ(large.num_layers, 56);
  EXPECT_EQ(large.head_dim, 128);
  const ModelConfig small = ReadModelConfig(testing::ReferenceData() / "models/tinymix");
  EXPECT_EQ(small.num_parameters(), 12'331'264);
}

TEST(ReadModelConfig, SaysWhereItLooked) {
  const testing::TemporaryDirectory directory;
  try {
    ReadModelConfig(directory.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), HasSubstr((directory.path() / "config.json").string()));
  }
}

}  // namespace
}  // namespace nibble
