#include "model/validate.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/reference_data.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

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
  // Changes config.json.
  void Edit(const std::function<void(Json& config)>& change) {
    const std::string path = (directory_.path() / "config.json").string();
    Json config = ReadJsonFile(path);
    change(config);
    WriteTextFile(path, config.dump());
  }

  void ExpectFailure(const std::string& rule, const std::string& detail, int64_t ranks = 1) {
    const ValidationReport report = ValidateForVllm(Checkpoint(directory_.path()), ranks);
    const Finding* finding = Find(report, rule);
    ASSERT_NE(finding, nullptr) << rule;
    EXPECT_FALSE(finding->passed) << rule;
    EXPECT_NE(finding->detail.find(detail), std::string::npos) << finding->detail;
    EXPECT_FALSE(report.passed());
  }

  TemporaryDirectory directory_;
};

TEST_F(ValidateTest, PassesAWellFormedCheckpoint) {
  WriteRandomMixtral(Packed(), directory_.path());
  const ValidationReport report = ValidateForVllm(Checkpoint(directory_.path()), 1);
  EXPECT_TRUE(report.passed()) << report.Failures();
  EXPECT_GT(report.findings.size(), 10u);
}

TEST_F(ValidateTest, PassesADenseCheckpoint) {
  RandomMixtral model = Packed();
  model.bits = 0;
  WriteRandomMixtral(model, directory_.path());
  EXPECT_TRUE(ValidateForVllm(Checkpoint(directory_.path()), 2).passed());
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
  EXPECT_TRUE(ValidateStructure(Checkpoint(directory_.path())).passed());
  ExpectFailure("spelled w1, w2, w3", "_proj");
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
  ExpectFailure("total_size is the sum", "expected 24662528, found 24662529");
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
  ExpectFailure("finite and positive", name);
}

}  // namespace
}  // namespace nibble
