#include "model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <optional>

#include "backend/make_backend.h"
#include "base/file.h"
#include "base/json.h"
#include "nibble/error.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using testing::ExpertSpelling;
using ::testing::HasSubstr;
using testing::RandomMixtral;
using testing::TemporaryDirectory;

// Loads a random model and returns the error, or "" if there was none.
std::string LoadError(const RandomMixtral& random,
                      const std::function<void(const std::filesystem::path&)>& damage = nullptr) {
  TemporaryDirectory directory;
  testing::WriteRandomMixtral(random, directory.path());
  if (damage) damage(directory.path());
  try {
    const Checkpoint checkpoint(directory.path());
    const auto backend = MakeBackend("reference");
    LoadOuter(checkpoint, *backend);
    for (int64_t layer = 0; layer < checkpoint.config().num_layers; ++layer) {
      LoadLayer(checkpoint, layer, *backend);
    }
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

RandomMixtral WithValue(const std::string& tensor, size_t index, float value) {
  RandomMixtral random;
  random.edit = [=](const std::string& name, std::vector<float>& values) {
    if (name == tensor) values.at(index) = value;
  };
  return random;
}

TEST(MixtralWeights, NamesTheTensorAndElementThatIsNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_THAT(LoadError(WithValue("model.layers.1.self_attn.k_proj.weight", 48 * 3 + 5, nan)),
              HasSubstr("model.layers.1.self_attn.k_proj.weight: element [3, 5] is nan"));
  EXPECT_THAT(
      LoadError(WithValue("model.layers.0.block_sparse_moe.experts.4.w2.weight", 72, -infinity)),
      HasSubstr("model.layers.0.block_sparse_moe.experts.4.w2.weight: element [1, 0] is -inf"));
  EXPECT_THAT(LoadError(WithValue("model.norm.weight", 7, nan)),
              HasSubstr("model.norm.weight: element [0, 7] is nan"));
  EXPECT_THAT(LoadError(WithValue("lm_head.weight", 0, infinity)),
              HasSubstr("lm_head.weight: element [0, 0] is inf"));

  RandomMixtral packed = WithValue("model.layers.1.self_attn.q_proj.weight", 24, infinity);
  packed.bits = 4;
  EXPECT_THAT(LoadError(packed),
              HasSubstr("model.layers.1.self_attn.q_proj.weight_scale: element [0, 1] is inf"));
}

TEST(MixtralWeights, NamesTheFirstBadElementOfALargeTensor) {
  RandomMixtral random;
  random.vocab_size = 30'011;  // more than one piece of the scan
  random.edit = [](const std::string& name, std::vector<float>& values) {
    if (name != "model.embed_tokens.weight") return;
    values[48 * 29'000 + 1] = std::numeric_limits<float>::quiet_NaN();
    values[48 * 21'000 + 40] = std::numeric_limits<float>::infinity();
  };
  TemporaryDirectory directory;
  testing::WriteRandomMixtral(random, directory.path());
  const Checkpoint checkpoint(directory.path());
  for (const int threads : {1, 3}) {
    const auto backend = MakeBackend("cpu", {.threads = threads, .instruction_set = {}});
    try {
      LoadOuter(checkpoint, *backend);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("element [21000, 40] is inf"));
    }
  }
}

TEST(MixtralWeights, NamesAMissingLinearUnderAllItsNames) {
  const auto more_experts = [](const std::filesystem::path& directory) {
    const std::string path = (directory / "config.json").string();
    Json config = ReadJsonFile(path);
    config["num_local_experts"] = 6;
    WriteTextFile(path, config.dump());
  };
  RandomMixtral random;
  random.num_experts_per_token = 2;
  // The router is the first to disagree with the configuration.
  EXPECT_THAT(LoadError(random, more_experts), AllOf(HasSubstr("block_sparse_moe.gate.weight"),
                                                     HasSubstr("[6, 48]"), HasSubstr("[5, 48]")));

  const auto more_layers = [](const std::filesystem::path& directory) {
    const std::string path = (directory / "config.json").string();
    Json config = ReadJsonFile(path);
    config["num_hidden_layers"] = 3;
    WriteTextFile(path, config.dump());
  };
  EXPECT_THAT(LoadError(random, more_layers), HasSubstr("model.layers.2.input_layernorm.weight"));
  EXPECT_EQ(LoadError(random), "");

  TemporaryDirectory directory;
  testing::WriteRandomMixtral(random, directory.path());
  const Checkpoint checkpoint(directory.path());
  try {
    TensorSpec up = LayerLinears(checkpoint.config(), 0).back();
    up.expert = 7;
    up.module = "model.layers.0.block_sparse_moe.experts.7.w3";
    FindWeight(checkpoint, up);
    FAIL() << "found";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("model.layers.0.block_sparse_moe.experts.7.w3.weight [72, 48]"),
                      HasSubstr("experts.7.up_proj")));
  }
}

// Weights that calibration left rounded only in use, not packed: their raw values are another
// model.
TEST(MixtralWeights, DenseWeightsWithScalesAreRefused) {
  EXPECT_THAT(LoadError({},
                        [](const std::filesystem::path& directory) {
                          testing::EditTensors(directory, [](auto& tensors) {
                            tensors["model.layers.1.self_attn.q_proj.weight_scale"] =
                                Tensor(DType::kBF16, {72, 2});
                          });
                        }),
              HasSubstr("model.layers.1.self_attn.q_proj.weight has a weight_scale beside it"));
}

TEST(MixtralWeights, FusedExpertsOfAnotherShapeAreRefused) {
  RandomMixtral random;
  random.spelling = ExpertSpelling::kFused;
  EXPECT_EQ(LoadError(random), "");
  EXPECT_THAT(LoadError(random,
                        [](const std::filesystem::path& directory) {
                          const std::string path = (directory / "config.json").string();
                          Json config = ReadJsonFile(path);
                          config["intermediate_size"] = 36;
                          WriteTextFile(path, config.dump());
                        }),
              AllOf(HasSubstr("mlp.experts.gate_up_proj"), HasSubstr("[5, 72, 48]"),
                    HasSubstr("[5, 144, 48]")));
}

TEST(MixtralWeights, TiedModelsNeedNoHead) {
  RandomMixtral random;
  random.tie_word_embeddings = true;
  EXPECT_EQ(LoadError(random), "");
  EXPECT_THAT(LoadError(random,
                        [](const std::filesystem::path& directory) {
                          const std::string path = (directory / "config.json").string();
                          Json config = ReadJsonFile(path);
                          config["tie_word_embeddings"] = false;
                          WriteTextFile(path, config.dump());
                        }),
              HasSubstr("lm_head"));
}

// Opens a model whose config.json ties embedding and head, with these two tensors.
struct TiedModel {
  explicit TiedModel(const std::function<void(std::map<std::string, Tensor>&)>& edit) {
    testing::WriteRandomMixtral({}, directory.path());  // stores a head of its own
    testing::EditConfig(directory.path(),
                        [](Json& config) { config["tie_word_embeddings"] = true; });
    testing::EditTensors(directory.path(), edit);
    checkpoint.emplace(directory.path());
  }

  TensorView Head() const { return FindDense(*checkpoint, HeadOf(checkpoint->config())); }
  TensorView Embedding() const { return FindDense(*checkpoint, EmbeddingOf(checkpoint->config())); }
  std::string Warning() const {
    ::testing::internal::CaptureStderr();
    WarnOfUntiedHead(*checkpoint);
    return ::testing::internal::GetCapturedStderr();
  }

  TemporaryDirectory directory;
  std::optional<Checkpoint> checkpoint;
};

constexpr char kStoredEmbedding[] = "model.embed_tokens.weight";
constexpr char kStoredHead[] = "lm_head.weight";

TEST(MixtralWeights, TiedTablesThatDifferAreBothUsed) {
  const TiedModel model([](auto&) {});
  EXPECT_FALSE(IsHeadTied(*model.checkpoint));
  EXPECT_EQ(model.Head().data(), model.checkpoint->Get(kStoredHead).data());
  EXPECT_EQ(model.Embedding().data(), model.checkpoint->Get(kStoredEmbedding).data());
  EXPECT_THAT(model.Warning(), HasSubstr("head_not_tied"));
  const TiedModel other_type([](auto& tensors) {
    tensors[kStoredHead] =
        FromFloat(ToFloat(tensors[kStoredEmbedding].view()), DType::kF32, {101, 48});
  });
  EXPECT_FALSE(IsHeadTied(*other_type.checkpoint));
}

TEST(MixtralWeights, TiedTablesThatAreEqualAreOne) {
  const TiedModel model(
      [](auto& tensors) { tensors[kStoredHead] = Tensor::Copy(tensors[kStoredEmbedding].view()); });
  EXPECT_TRUE(IsHeadTied(*model.checkpoint));
  EXPECT_EQ(model.Warning(), "");
}

TEST(MixtralWeights, EitherOfTwoTiedTablesStandsForBoth) {
  for (const char* missing : {kStoredEmbedding, kStoredHead}) {
    const TiedModel model([&](auto& tensors) { tensors.erase(missing); });
    EXPECT_TRUE(IsHeadTied(*model.checkpoint));
    EXPECT_EQ(model.Warning(), "");
    const char* stored = missing == kStoredHead ? kStoredEmbedding : kStoredHead;
    EXPECT_EQ(model.Head().data(), model.checkpoint->Get(stored).data());
    EXPECT_EQ(model.Embedding().data(), model.Head().data());
  }
}

TEST(MixtralWeights, TablesThatAreNotTiedDoNotStandForEachOther) {
  EXPECT_THAT(LoadError({},
                        [](const std::filesystem::path& directory) {
                          testing::EditTensors(
                              directory, [](auto& tensors) { tensors.erase(kStoredEmbedding); });
                        }),
              HasSubstr("no tensor model.embed_tokens.weight [101, 48]"));
}

// What /proc says this process holds of the mapping of `path`, in bytes.
int64_t ResidentBytesOf(const std::filesystem::path& path) {
  std::ifstream maps("/proc/self/smaps");
  bool found = false;
  int64_t kilobytes = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(path.string()) != std::string::npos) found = true;
    if (found && line.starts_with("Rss:")) {
      kilobytes += std::stoll(line.substr(4));
      found = false;
    }
  }
  return kilobytes * 1024;
}

TEST(MixtralWeights, WhatWasLoadedIsNotResidentTwice) {
  for (const int bits : {0, 4}) {
    RandomMixtral random;
    random.hidden_size = 192;
    random.intermediate_size = 768;
    random.bits = bits;
    TemporaryDirectory directory;
    testing::WriteRandomMixtral(random, directory.path());
    const std::filesystem::path file = directory.path() / "model.safetensors";
    const Checkpoint checkpoint(directory.path());
    const auto backend = MakeBackend("cpu");
    const OuterWeights outer = LoadOuter(checkpoint, *backend);
    std::vector<LayerWeights> layers;
    for (int64_t layer = 0; layer < random.num_layers; ++layer) {
      layers.push_back(LoadLayer(checkpoint, layer, *backend));
    }
    // Only pages on the borders of tensors stay.
    EXPECT_LT(ResidentBytesOf(file), checkpoint.total_bytes() / 4) << bits << " bits";
    EXPECT_GT(checkpoint.total_bytes(), int64_t{2} << 20);
  }
}

TEST(MixtralWeights, ExpertsLoadApartFromTheirLayer) {
  TemporaryDirectory directory;
  testing::WriteRandomMixtral({}, directory.path());
  const Checkpoint checkpoint(directory.path());
  const auto backend = MakeBackend("reference");
  const LayerWeights layer = LoadLayerWithoutExperts(checkpoint, 1, *backend);
  EXPECT_EQ(layer.experts.gate_up, nullptr);
  EXPECT_EQ(layer.qkv->num_parts(), 3);
  const ExpertRange experts = LoadExperts(checkpoint, 1, 3, 5, *backend);
  EXPECT_EQ(experts.first, 3);
  ASSERT_EQ(experts.gate_up->num_parts(), 4);
  ASSERT_EQ(experts.down->num_parts(), 2);
  EXPECT_EQ(experts.gate_up->part(1), (MatrixShape{72, 48}));
  EXPECT_EQ(experts.down->part(1), (MatrixShape{48, 72}));
}

}  // namespace
}  // namespace nibble
