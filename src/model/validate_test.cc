#include "model/validate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/reference_data.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using ::nibble::testing::EditConfig;
using ::nibble::testing::EditTensors;
using ::nibble::testing::ExpertSpelling;
using ::nibble::testing::RandomMixtral;
using ::nibble::testing::TemporaryDirectory;
using ::nibble::testing::WriteRandomMixtral;

// Shapes that vLLM's kernels take.
RandomMixtral Packed() {
  RandomMixtral model;
  model.hidden_size = 128;
  model.intermediate_size = 256;
  model.num_heads = 4;
  model.num_kv_heads = 2;
  model.head_dim = 32;
  model.num_experts = 3;
  model.bits = 4;
  model.group_size = 64;
  return model;
}

const Finding* Find(const ValidationReport& report, const std::string& words) {
  const auto found = std::find_if(
      report.findings.begin(), report.findings.end(),
      [&](const Finding& finding) { return finding.rule.find(words) != std::string::npos; });
  return found == report.findings.end() ? nullptr : &*found;
}

class ValidateTest : public ::testing::Test {
 protected:
  void Edit(const std::function<void(Json& config)>& change) {
    EditConfig(directory_.path(), change);
  }

  // The finding of this rule is the worst.
  void ExpectFinding(Grade grade, const std::string& rule, const std::string& detail,
                     int64_t ranks = 1) {
    const ValidationReport report = ValidateForVllm(Checkpoint(directory_.path()), ranks);
    const Finding* finding = Find(report, rule);
    ASSERT_NE(finding, nullptr) << rule;
    EXPECT_EQ(finding->grade, grade) << rule << ": " << finding->detail;
    EXPECT_NE(finding->detail.find(detail), std::string::npos) << finding->detail;
    EXPECT_EQ(report.verdict(), grade) << report.Remarks();
    EXPECT_EQ(report.passed(), grade <= Grade::kUnusual);
  }

  void ExpectFailure(const std::string& rule, const std::string& detail, int64_t ranks = 1) {
    ExpectFinding(Grade::kFails, rule, detail, ranks);
  }

  // Writes Packed() with other tensors.
  void WriteEdited(const std::function<void(std::map<std::string, Tensor>&)>& edit) {
    WriteRandomMixtral(Packed(), directory_.path());
    EditTensors(directory_.path(), edit);
  }

  TemporaryDirectory directory_;
};

TEST_F(ValidateTest, PassesAWellFormedCheckpoint) {
  WriteRandomMixtral(Packed(), directory_.path());
  const ValidationReport report = ValidateForVllm(Checkpoint(directory_.path()), 1);
  EXPECT_EQ(report.verdict(), Grade::kOk) << report.Remarks();
  EXPECT_GT(report.findings.size(), 10u);
}

TEST_F(ValidateTest, PassesADenseCheckpoint) {
  RandomMixtral model = Packed();
  model.bits = 0;
  WriteRandomMixtral(model, directory_.path());
  EXPECT_EQ(ValidateForVllm(Checkpoint(directory_.path()), 2).verdict(), Grade::kOk);
}

TEST_F(ValidateTest, NamesARouterThatIsNotIgnored) {
  WriteRandomMixtral(Packed(), directory_.path());
  Edit([](Json& config) { config["quantization_config"]["ignore"] = {"lm_head"}; });
  ExpectFailure("routers and lm_head", "model.layers.0.block_sparse_moe.gate");
  ExpectFailure("every promised tensor", "gate.weight_packed is missing");
}

TEST_F(ValidateTest, NamesATensorThatShouldNotBeThere) {
  WriteRandomMixtral(Packed(), directory_.path());
  Edit([](Json& config) { config["num_hidden_layers"] = 1; });
  ExpectFailure("no tensor the configs do not promise", "model.layers.1.");
}

TEST_F(ValidateTest, NamesAnIgnorePatternThatCatchesExperts) {
  WriteRandomMixtral(Packed(), directory_.path());
  Edit([](Json& config) { config["quantization_config"]["ignore"] = {"lm_head", "re:.*gate"}; });
  ExpectFailure("vLLM's own names", "experts.0.gate_proj");
}

TEST_F(ValidateTest, NamesTheSpellingVllmDoesNotFind) {
  RandomMixtral model = Packed();
  model.spelling = ExpertSpelling::kProjections;
  WriteRandomMixtral(model, directory_.path());
  EXPECT_EQ(ValidateStructure(Checkpoint(directory_.path())).verdict(), Grade::kOk);
  ExpectFinding(Grade::kDiffers, "spelled w1, w2, w3", "_proj");
}

constexpr char kQuery[] = "model.layers.1.self_attn.q_proj.";

// What vLLM converts when it loads, and the model is the same.
TEST_F(ValidateTest, CallsOtherTypesUnusual) {
  WriteEdited([](auto& tensors) {
    Tensor& scale = tensors[std::string(kQuery) + "weight_scale"];
    scale = FromFloat(ToFloat(scale.view()), DType::kF16, scale.shape());
  });
  ExpectFinding(Grade::kUnusual, "types and shapes",
                "weight_scale: expected BF16 [128, 2], found F16");
  WriteEdited([](auto& tensors) {
    tensors[std::string(kQuery) + "weight_shape"] = Tensor::FromVector<int32_t>({128, 128}, {2});
  });
  ExpectFinding(Grade::kUnusual, "types and shapes", "weight_shape: expected I64 [2], found I32");
  WriteRandomMixtral(Packed(), directory_.path());
  Edit([](Json& config) { config.erase("torch_dtype"); });
  EXPECT_EQ(ValidateForVllm(Checkpoint(directory_.path()), 1).verdict(), Grade::kOk);
}

TEST_F(ValidateTest, NamesTypesAndShapesThatDoNotLoad) {
  WriteEdited([](auto& tensors) {
    tensors[std::string(kQuery) + "weight_scale"] = Tensor(DType::kF8E4M3, {128, 2});
  });
  ExpectFailure("types and shapes", "weight_scale: expected BF16 [128, 2], found F8_E4M3");
  WriteEdited([](auto& tensors) {
    tensors[std::string(kQuery) + "weight_packed"] = Tensor(DType::kI32, {128, 8});
  });
  ExpectFailure("types and shapes", "expected I32 [128, 16], found I32 [128, 8]");
}

TEST_F(ValidateTest, NamesAShapeThatContradictsItsTensor) {
  WriteEdited([](auto& tensors) {
    tensors[std::string(kQuery) + "weight_shape"] = Tensor::FromVector<int32_t>({128, 64}, {2});
  });
  ExpectFinding(Grade::kDiffers, "gives the unpacked shape",
                "expected [128, 128], found [128, 64]");
}

TEST_F(ValidateTest, PassesOverTensorsOfTheCache) {
  WriteEdited([](auto& tensors) {
    tensors["model.layers.0.self_attn.k_scale"] = Tensor(DType::kF32, {1});
    tensors["model.layers.1.self_attn.v_proj.output_scale"] = Tensor(DType::kF32, {1});
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor(DType::kF32, {16});
  });
  ExpectFinding(Grade::kUnusual, "the configs do not promise", "(and 2 more)");
  Edit([](Json& config) { config["quantization_config"]["kv_cache_scheme"] = {{"num_bits", 8}}; });
  ExpectFinding(Grade::kUnusual, "the cache", "kv_cache_scheme");
}

TEST_F(ValidateTest, ReadsTargetsInAnySpelling) {
  for (const auto& targets : std::vector<std::vector<std::string>>{
           {"Linear", "re:.*w2$"},
           {"re:.*"},
           {"re:model\\.layers\\.\\d+\\.(self_attn|block_sparse_moe)\\."},
           {"re:.*_proj$", "re:.*w[123]$"}}) {
    WriteRandomMixtral(Packed(), directory_.path());
    Edit([&](Json& config) {
      config["quantization_config"]["config_groups"]["group_0"]["targets"] = targets;
    });
    const ValidationReport report = ValidateForVllm(Checkpoint(directory_.path()), 1);
    EXPECT_EQ(report.verdict(), Grade::kOk) << targets.front() << "\n" << report.Remarks();
  }
}

TEST_F(ValidateTest, NamesLinearsThatAreNoTargets) {
  WriteRandomMixtral(Packed(), directory_.path());
  const auto set = [&](const char* targets) {
    Edit([&](Json& config) {
      config["quantization_config"]["config_groups"]["group_0"]["targets"] = {targets};
    });
  };
  set("re:.*self_attn");  // the experts are packed all the same
  ExpectFailure("every promised tensor", "experts.0.w1.weight is missing");
  set("re:.*(_proj|w[123])$");
  EXPECT_EQ(ValidateStructure(Checkpoint(directory_.path())).verdict(), Grade::kOk);
  set("re:.*([qkvo]_proj|w[123])$");  // vLLM does not ask for w1
  EXPECT_EQ(ValidateStructure(Checkpoint(directory_.path())).verdict(), Grade::kOk);
  ExpectFailure("vLLM's own names", "experts.0.gate_proj is no target");
}

TEST_F(ValidateTest, LeavesToTheTensorsWhatAPatternMeansThatItCannotEvaluate) {
  WriteRandomMixtral(Packed(), directory_.path());
  Edit([](Json& config) {
    config["quantization_config"]["ignore"] = {"re:.*(?<!proj)\\.gate$", "lm_head"};
  });
  ExpectFinding(Grade::kUnusual, "patterns can be evaluated", "a negative look-behind");
  Edit([](Json& config) {
    config["quantization_config"]["config_groups"]["group_0"]["targets"] = {"re:(?!lm_head).*"};
  });
  ExpectFinding(Grade::kUnusual, "patterns can be evaluated", "(and 1 more)");
}

TEST_F(ValidateTest, NamesAHeadThatIsNotTied) {
  WriteRandomMixtral(Packed(), directory_.path());
  Edit([](Json& config) { config["tie_word_embeddings"] = true; });
  ExpectFinding(Grade::kDiffers, "tied embeddings", "lm_head.weight differs");
  for (const char* missing : {"lm_head.weight", "model.embed_tokens.weight"}) {
    WriteEdited([&](auto& tensors) { tensors.erase(missing); });
    Edit([](Json& config) { config["tie_word_embeddings"] = true; });
    EXPECT_EQ(ValidateForVllm(Checkpoint(directory_.path()), 1).verdict(), Grade::kOk) << missing;
  }
}

TEST_F(ValidateTest, SaysWhereIndexAndShardsDisagree) {
  WriteRandomMixtral(Packed(), directory_.path());
  Json map = Json::object();
  for (const std::string& name : Checkpoint(directory_.path()).names()) map[name] = "s.safetensors";
  std::filesystem::rename(directory_.path() / "model.safetensors",
                          directory_.path() / "s.safetensors");
  const auto write_index = [&](const Json& weight_map) {
    WriteTextFile(directory_.path() / "model.safetensors.index.json",
                  Json({{"weight_map", weight_map}}).dump());
  };
  write_index(map);
  EXPECT_EQ(ValidateForVllm(Checkpoint(directory_.path()), 1).verdict(), Grade::kOk);
  Json more = map;
  more["mtp.weight"] = "s.safetensors";
  write_index(more);
  ExpectFinding(Grade::kUnusual, "index and shards", "mtp.weight\" should be in s.safetensors");
  map.erase("lm_head.weight");
  write_index(map);
  ExpectFailure("index and shards", "\"lm_head.weight\" is not listed");
}

TEST(ValidatePlan, ComparesWhatIsToBeWrittenWithItsConfiguration) {
  TemporaryDirectory directory;
  WriteRandomMixtral(Packed(), directory.path());
  const Checkpoint checkpoint(directory.path());
  std::vector<TensorPlan> tensors;
  for (const std::string& name : checkpoint.names()) {
    const TensorView view = checkpoint.Get(name);
    tensors.push_back({name, view.dtype(), view.shape()});
  }
  const auto validate = [&] {
    return ValidatePlan(checkpoint.config(), checkpoint.quant_config(), tensors);
  };
  EXPECT_EQ(validate().verdict(), Grade::kOk) << validate().Remarks();
  for (TensorPlan& tensor : tensors) {
    if (tensor.name.ends_with("weight_scale")) tensor.dtype = DType::kF16;
  }
  EXPECT_EQ(validate().verdict(), Grade::kUnusual);
  tensors.pop_back();
  EXPECT_EQ(validate().verdict(), Grade::kFails);
}

TEST_F(ValidateTest, ComparesTheSizeTheIndexDeclares) {
  NIBBLE_REQUIRE_REFERENCE("models/tinymix");
  const std::filesystem::path model = testing::ReferenceData() / "models/tinymix";
  EXPECT_TRUE(ValidateStructure(Checkpoint(model)).passed());
  for (const auto& entry : std::filesystem::directory_iterator(model)) {
    if (entry.path().filename() == "model.safetensors.index.json") continue;
    std::filesystem::create_symlink(std::filesystem::absolute(entry.path()),
                                    directory_.path() / entry.path().filename());
  }
  Json index = ReadJsonFile(model / "model.safetensors.index.json");
  index["metadata"]["total_size"] = 24662529;
  WriteTextFile(directory_.path() / "model.safetensors.index.json", index.dump());
  ExpectFinding(Grade::kUnusual, "total_size is the sum", "expected 24662528, found 24662529");
}

TEST_F(ValidateTest, CountsWhatARankWouldGet) {
  WriteRandomMixtral(Packed(), directory_.path());
  ExpectFailure("attention heads divide", "4 heads, 3 ranks", 3);
  ExpectFailure("o_proj columns on a rank", "32", 4);
}

TEST_F(ValidateTest, NamesAScaleThatIsNotPositive) {
  NIBBLE_REQUIRE_REFERENCE("golden/tinymix/llmcompressor_w4a16_v041");
  namespace fs = std::filesystem;
  const fs::path golden = testing::ReferenceData() / "golden/tinymix/llmcompressor_w4a16_v041";
  EXPECT_TRUE(ValidateForVllm(Checkpoint(golden), 1).passed());
  for (const auto& entry : fs::directory_iterator(golden)) {
    fs::copy(entry.path(), directory_.path() / entry.path().filename());
    fs::permissions(directory_.path() / entry.path().filename(), fs::perms::owner_all);
  }
  const std::string name = "model.layers.2.self_attn.k_proj.weight_scale";
  fs::path shard;
  int64_t offset = 0;
  {
    const Checkpoint checkpoint(golden);
    for (const auto& entry : fs::directory_iterator(golden)) {
      if (entry.path().extension() != ".safetensors") continue;
      const MappedFile file(entry.path());
      const TensorView view = checkpoint.Get(name);
      const std::string_view haystack(reinterpret_cast<const char*>(file.bytes().data()),
                                      file.bytes().size());
      const std::string_view needle(reinterpret_cast<const char*>(view.data()),
                                    static_cast<size_t>(view.size_bytes()));
      const size_t at = haystack.find(needle);
      if (at == std::string_view::npos) continue;
      shard = directory_.path() / entry.path().filename();
      offset = static_cast<int64_t>(at);
    }
  }
  ASSERT_FALSE(shard.empty());
  std::string bytes = ReadTextFile(shard);
  bytes[static_cast<size_t>(offset) + 7] = static_cast<char>(0xBF);  // the sign of scale 3
  WriteTextFile(shard, bytes);
  ExpectFinding(Grade::kDiffers, "finite and positive", name);
}

}  // namespace
}  // namespace nibble
