#include "quantize/output/read_back.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "backend/make_backend.h"
#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "checkpoint/safetensors.h"
#include "quantize/run.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nibble::testing::RandomMixtral;
using nibble::testing::RandomTokens;
using nibble::testing::TemporaryDirectory;
using ::testing::HasSubstr;

// A finished output, with the digests and hidden states that the run recorded.
class ReadBackTest : public ::testing::Test {
 protected:
  ReadBackTest() {
    RandomMixtral model;
    model.hidden_size = 96;
    model.intermediate_size = 160;
    model.head_dim = 16;
    WriteRandomMixtral(model, directory_.path() / "in");
    options_.input = directory_.path() / "in";
    options_.output = directory_.path() / "out";
    options_.recipe.method = "rtn";
    options_.recipe.group_size = "32";
    options_.threads = 2;
    QuantizationRun(options_, [](const ModelConfig&) { return CalibrationSet(); }).Run();
    recipe_ = MakeRecipe(options_.recipe);
    source_ = std::make_unique<Checkpoint>(options_.input);
    plan_ = std::make_unique<OutputPlan>(*source_, recipe_);
    backend_ = MakeBackend("cpu", {.threads = 2, .instruction_set = {}});
    const std::vector<std::vector<int32_t>> sequences = {RandomTokens(40, 101, 3)};
    batches_ = CutIntoBatches(sequences, 64);
    workspace_ = std::make_unique<Workspace>(*backend_, SpecOf(source_->config()), 64, 8);
    Remember();
  }

  // Takes digests and hidden states from the files as they are now.
  void Remember() {
    digests_.clear();
    const Checkpoint written(options_.output);
    for (const UnitPlan& unit : plan_->units()) {
      Sha256Hasher hasher;
      for (const TensorPlan& tensor : unit.tensors) hasher.Add(written.Get(tensor.name).bytes());
      digests_.push_back(hasher.Finish());
    }
    const OuterWeights outer = LoadOuter(written, *backend_);
    const ModelSpec spec = SpecOf(written.config());
    Probe probe(spec, batches_, *backend_, *workspace_, outer);
    probe.Embed();
    for (int64_t layer = 0; layer < 2; ++layer) {
      const LayerWeights weights = LoadLayer(written, layer, *backend_);
      probe.RunAttention(spec.layer(layer), weights);
      probe.RunExperts(weights, 0, 5);
    }
    hidden_ = HiddenStates::InMemory(40, 96);
    std::vector<float> rows(40 * 96);
    probe.original().Load(0, rows);
    hidden_.Store(0, rows);
  }

  std::string Check() {
    try {
      const ProbeScore score = ReadBack(*source_, options_.output, *plan_, digests_, batches_,
                                        hidden_, *backend_, *workspace_);
      return score.tokens == 39 ? "fine" : "no score";
    } catch (const Error& error) {
      return error.what();
    }
  }

  // Changes bytes of a tensor in the file.
  void Damage(const std::string& name, int64_t offset, const std::string& bytes) {
    const fs::path path = options_.output / "model.safetensors";
    const MappedFile file(path);
    const SafetensorsHeader header =
        ParseSafetensorsHeader(file.bytes(), static_cast<int64_t>(file.bytes().size()), "test");
    for (const SafetensorsEntry& entry : header.entries) {
      if (entry.name != name) continue;
      std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekp(header.data_offset + entry.begin + offset);
      stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      return;
    }
    FAIL() << "no " << name;
  }

  TemporaryDirectory directory_;
  QuantizeOptions options_;
  Recipe recipe_;
  std::unique_ptr<Checkpoint> source_;
  std::unique_ptr<OutputPlan> plan_;
  std::unique_ptr<Backend> backend_;
  TokenBatches batches_;
  std::unique_ptr<Workspace> workspace_;
  std::vector<std::string> digests_;
  HiddenStates hidden_;
};

TEST_F(ReadBackTest, AnIntactCheckpointPasses) { EXPECT_EQ(Check(), "fine"); }

TEST_F(ReadBackTest, OneFlippedByteIsFound) {
  Damage("model.layers.1.block_sparse_moe.experts.2.w3.weight_packed", 1234, "\x5a");
  EXPECT_THAT(Check(), HasSubstr("model.layers.1 differs"));
}

TEST_F(ReadBackTest, AScaleThatIsNoNumberIsFound) {
  Damage("model.layers.0.self_attn.q_proj.weight_scale", 8, "\xff\xff");
  EXPECT_THAT(Check(), HasSubstr("weight_scale"));
}

TEST_F(ReadBackTest, CodesOfOtherWeightsAreFoundThoughTheirDigestFits) {
  // The first row's codes in all rows: a packer with a wrong stride.
  const std::string name = "model.layers.0.self_attn.o_proj.weight_packed";
  std::string row;
  {
    const Checkpoint written(options_.output);
    const auto bytes = written.Get(name).bytes().first(48);
    row.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  for (int64_t r = 0; r < 96; ++r) Damage(name, r * 48, row);
  Remember();
  EXPECT_THAT(Check(), HasSubstr("o_proj decodes to other weights"));
}

TEST_F(ReadBackTest, OtherActivationsThanCalibratedWithAreFound) {
  std::vector<float> rows(96);
  hidden_.Load(7, rows);
  rows[3] = std::nextafter(rows[3], 100.0f);
  hidden_.Store(7, rows);
  EXPECT_THAT(Check(), HasSubstr("other activations"));
}

TEST_F(ReadBackTest, AMissingTensorIsFound) {
  Json config = ReadJsonFile((options_.output / "config.json").string());
  config["num_hidden_layers"] = 3;
  std::ofstream(options_.output / "config.json") << config.dump();
  EXPECT_THAT(Check(), HasSubstr("model.layers.2"));
}

}  // namespace
}  // namespace nibble
