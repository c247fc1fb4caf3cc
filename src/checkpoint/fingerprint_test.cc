#include "checkpoint/fingerprint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "base/sha256.h"
#include "checkpoint/safetensors.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr char kConfig[] =
    R"({"model_type": "mixtral", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 4,
  "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
  "num_local_experts": 2, "num_experts_per_tok": 1})";

class Fingerprint : public ::testing::Test {
 protected:
  Fingerprint() {
    WriteTextFile(Path("config.json"), kConfig);
    Write({{"a", 1.0f}, {"b", 2.0f}});
  }

  fs::path Path(const std::string& name = "") const { return directory_.path() / name; }

  // Tensors of 300 floats, all alike.
  void Write(const std::vector<std::pair<std::string, float>>& values) const {
    std::vector<Tensor> tensors;
    std::vector<std::pair<std::string, TensorView>> views;
    for (const auto& [name, value] : values) {
      tensors.push_back(FromFloat(std::vector<float>(300, value), DType::kF32, {300}));
      views.emplace_back(name, tensors.back().view());
    }
    WriteSafetensors(Path("model.safetensors"), views);
  }

  // Changes one byte of the shard in place, `from_end` bytes before its end.
  void Poke(int64_t from_end) const {
    std::fstream file(Path("model.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-from_end, std::ios::end);
    file.put('\x55');
  }

  std::string Sample() const { return SampleDigest(Checkpoint(Path())); }
  std::string Content() const {
    ThreadPool pool(2);
    return ContentDigests(Checkpoint(Path()), pool);
  }

 private:
  testing::TemporaryDirectory directory_;
};

TEST_F(Fingerprint, SampleSeesAnyTensorNameOrConfigurationThatChanges) {
  const std::string before = Sample();
  EXPECT_EQ(Sample(), before);
  Write({{"a", 1.0f}, {"b", 2.5f}});
  const std::string value = Sample();
  EXPECT_NE(value, before);
  Write({{"a", 1.0f}, {"c", 2.5f}});
  EXPECT_NE(Sample(), value);
  Write({{"a", 1.0f}, {"b", 2.0f}});
  EXPECT_EQ(Sample(), before);
  WriteTextFile(Path("config.json"), std::string(kConfig) + "\n");
  EXPECT_NE(Sample(), before);
}

TEST_F(Fingerprint, ContentSeesTheByteThatTheSampleMisses) {
  const std::string sample = Sample();
  const std::string content = Content();
  const std::string modified = ModificationTimes(Checkpoint(Path()));
  EXPECT_EQ(content, Sha256File(Path("model.safetensors")) + "  model.safetensors\n");

  Poke(8);  // of tensor b, far from its middle
  EXPECT_EQ(Sample(), sample);
  EXPECT_NE(Content(), content);
  fs::last_write_time(Path("model.safetensors"),
                      fs::last_write_time(Path("model.safetensors")) + std::chrono::seconds(1));
  EXPECT_NE(ModificationTimes(Checkpoint(Path())), modified);
}

TEST_F(Fingerprint, TakesTensorsOfAnySize) {
  std::vector<Tensor> tensors;
  std::vector<std::pair<std::string, TensorView>> views;
  for (const int64_t count : {0, 1, 15, 16, 17}) {
    tensors.emplace_back(DType::kF32, Shape{count});
    views.emplace_back(fmt::format("t{}", count), tensors.back().view());
  }
  WriteSafetensors(Path("model.safetensors"), views);
  EXPECT_EQ(Sample().size(), 64u);
}

}  // namespace
}  // namespace nibble
