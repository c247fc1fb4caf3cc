#include "model/packed_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <limits>
#include <vector>

#include "backend/make_backend.h"
#include "base/json.h"
#include "base/log.h"
#include "model/batch_builder.h"
#include "model/model.h"
#include "nibble/error.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::RandomMixtral;

RandomMixtral Packed() {
  RandomMixtral random;
  random.bits = 4;
  return random;
}

// A checkpoint with its packed weights.
class PackedWeightsTest : public ::testing::Test {
 protected:
  void Write(const RandomMixtral& random) {
    testing::WriteRandomMixtral(random, Path());
    WritePackedWeights(Checkpoint(Path()), *backend_, File());
  }

  fs::path Path(const std::string& name = "") const { return directory_.path() / name; }
  fs::path File() const { return Path(PackedWeights::kFileName); }

  std::vector<float> Logits(Backend& backend) const {
    const Checkpoint checkpoint(Path());
    Model model(checkpoint, backend, 16);
    const auto kv = model.MakeKvPages(1);
    const std::vector<int32_t> tokens = testing::RandomTokens(9, 101, 3);
    const std::vector<int32_t> blocks = {0};
    BatchBuilder builder;
    builder.Add(tokens, 0, blocks, 0);
    std::vector<float> logits;
    model.Forward(builder.Take(), *kv, logits);
    return logits;
  }

  bool IsUsed() const {
    const Checkpoint checkpoint(Path());
    return OpenPackedWeights(checkpoint, *backend_).has_value();
  }

  // What opening the file says; the model must run all the same, with the right results.
  std::string Refusal(const std::vector<float>& expected) const {
    EXPECT_FALSE(IsUsed());
    EXPECT_EQ(Logits(*backend_), expected);
    try {
      const Checkpoint checkpoint(Path());
      PackedWeights(File(), checkpoint, *backend_);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(File().string()));
      return error.what();
    }
    ADD_FAILURE() << "accepted";
    return "";
  }

  // The file with its header's document edited; the data stay where they are.
  void EditHeader(const std::function<void(Json&)>& edit) const {
    const std::string bytes = ReadTextFile(File());
    size_t length = 0;
    for (size_t i = 0; i < 8; ++i) length |= size_t{static_cast<uint8_t>(bytes[i])} << (8 * i);
    Json document = ParseJson(bytes.substr(8, length), "header");
    edit(document);
    std::string json = document.dump();
    ASSERT_LE(json.size(), length);
    json.resize(length, ' ');
    WriteTextFile(File(), bytes.substr(0, 8) + json + bytes.substr(8 + length));
  }

  void Flip(size_t at) const {
    std::string bytes = ReadTextFile(File());
    bytes.at(at) = static_cast<char>(bytes.at(at) ^ 1);
    WriteTextFile(File(), bytes);
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu", {.threads = 2, .instruction_set = {}});

 private:
  testing::TemporaryDirectory directory_;
};

TEST_F(PackedWeightsTest, GiveTheSameLogitsInEveryBit) {
  for (const int bits : {0, 4, 8}) {
    for (const bool tied : {false, true}) {
      for (const DType dtype : {DType::kBF16, DType::kF32}) {
        RandomMixtral random;
        random.bits = bits;
        random.tie_word_embeddings = tied;
        random.dtype = dtype;
        testing::WriteRandomMixtral(random, Path());
        fs::remove(File());
        const std::vector<float> expected = Logits(*backend_);
        ASSERT_EQ(expected.size(), 9u * 101);

        const Checkpoint checkpoint(Path());
        const int64_t bytes = WritePackedWeights(checkpoint, *backend_, File());
        EXPECT_EQ(bytes, static_cast<int64_t>(fs::file_size(File())));
        ASSERT_TRUE(IsUsed());
        EXPECT_EQ(Logits(*backend_), expected) << bits << " bits, tied " << tied;
        EXPECT_EQ(PackedWeights(File(), checkpoint, *backend_).FindDifference(), std::nullopt);
      }
    }
  }
}

TEST_F(PackedWeightsTest, AreUsedWhereTheyAreValidAndNotReadFromTheCheckpoint) {
  Write(Packed());
  const std::vector<float> before = Logits(*backend_);
  // A different scale in the file shows in the logits: so it is this file that is computed with.
  // The last byte but the padding belongs to the head, which comes last.
  Flip(fs::file_size(File()) - 4096 - 8192);
  EXPECT_TRUE(IsUsed());
  EXPECT_NE(Logits(*backend_), before);
  const Checkpoint checkpoint(Path());
  EXPECT_EQ(PackedWeights(File(), checkpoint, *backend_).FindDifference(), "lm_head");
}

TEST_F(PackedWeightsTest, ServeEveryInstructionSet) {
  Write(Packed());
  const std::vector<float> expected = Logits(*backend_);
  for (const char* set : {"portable", "avx2", "avx512"}) {
    try {
      const auto backend = MakeBackend("cpu", {.threads = 1, .instruction_set = set});
      EXPECT_EQ(Logits(*backend), expected) << set;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported) << error.what();
    }
  }
}

TEST_F(PackedWeightsTest, OfOtherWeightsOrConfigurationAreRefused) {
  Write(Packed());
  RandomMixtral other = Packed();
  other.seed = 2;
  testing::WriteRandomMixtral(other, Path());
  const fs::path moved = Path("moved");
  fs::rename(File(), moved);
  const std::vector<float> expected = Logits(*backend_);
  fs::rename(moved, File());
  EXPECT_THAT(Refusal(expected), HasSubstr("made from other weights"));

  Write(other);
  EXPECT_TRUE(IsUsed());
  const std::string config = ReadTextFile(Path("config.json"));
  WriteTextFile(Path("config.json"), config + "\n");
  EXPECT_THAT(Refusal(expected), HasSubstr("config.json"));
}

TEST_F(PackedWeightsTest, AChangeOutsideTheSampleIsSeenByItsTime) {
  RandomMixtral random = Packed();
  Write(random);
  // One value of the embedding, at its very end: where the sample does not look.
  random.edit = [](const std::string& name, std::vector<float>& values) {
    if (name == "model.embed_tokens.weight") values.back() = 9.0f;
  };
  const fs::path shard = Path("model.safetensors");
  const auto time = fs::last_write_time(shard);
  testing::WriteRandomMixtral(random, Path());
  fs::last_write_time(shard, time + std::chrono::seconds(1));
  fs::rename(File(), Path("moved"));
  const std::vector<float> expected = Logits(*backend_);
  fs::rename(Path("moved"), File());
  EXPECT_THAT(Refusal(expected), HasSubstr("changed after"));
}

TEST_F(PackedWeightsTest, ACopyWithOtherTimesIsStillTheSame) {
  Write(Packed());
  const fs::path shard = Path("model.safetensors");
  fs::last_write_time(shard, fs::last_write_time(shard) + std::chrono::hours(1));
  EXPECT_TRUE(IsUsed());
}

TEST_F(PackedWeightsTest, HostileFilesAreRefusedAndTheModelRuns) {
  Write(Packed());
  const std::vector<float> expected = Logits(*backend_);
  const std::string good = ReadTextFile(File());
  const auto refused = [&](const char* reason) {
    EXPECT_THAT(Refusal(expected), HasSubstr(reason));
    WriteTextFile(File(), good);
    EXPECT_TRUE(IsUsed());
  };

  for (const size_t size : {size_t{0}, size_t{7}, size_t{100}}) {
    WriteTextFile(File(), good.substr(0, size));
    refused(size < 8 ? "too few" : "truncated");
  }
  WriteTextFile(File(), good.substr(0, good.size() - 1));
  refused("truncated");
  WriteTextFile(File(), good + "x");
  refused("the file goes on");
  WriteTextFile(File(), std::string(8, '\xff') + good.substr(8));
  refused("header of");

  EditHeader([](Json& header) { header["__metadata__"]["format"] = "nibble packed weights 0"; });
  refused("weights 0");
  EditHeader([](Json& header) { header["__metadata__"]["layout"] = "cpu 0"; });
  refused("\"cpu 0\"");
  EditHeader([](Json& header) { header["__metadata__"].erase("source_sample"); });
  refused("lacks source_sample");
  EditHeader([](Json& header) { header.erase("__metadata__"); });
  refused("found \"none\"");

  // Two weights in one place; a weight under another name; two that changed places.
  EditHeader([](Json& header) { header["model.norm"]["data_offsets"] = {0, 4096}; });
  refused("overlapping");
  EditHeader([](Json& header) {
    Json entry = header["lm_head"];
    header.erase("lm_head");
    header["m_head"] = entry;
  });
  refused("lacks the weight lm_head");
  EditHeader([](Json& header) { std::swap(header["lm_head"], header["model.norm"]); });
  refused("model.norm: expected");
}

// A run of data that ends a page early is as long as the header says, but not as the model needs.
TEST_F(PackedWeightsTest, WeightsOfAnotherSizeAreRefused) {
  Write(Packed());
  const std::vector<float> expected = Logits(*backend_);
  EditHeader([](Json& header) {
    Json& head = header["lm_head"];
    const auto end = head["data_offsets"][1].get<int64_t>() - 100;
    head["data_offsets"][1] = end;
    head["shape"] = {end - head["data_offsets"][0].get<int64_t>()};
  });
  fs::resize_file(File(), fs::file_size(File()) - 100);
  EXPECT_THAT(Refusal(expected), AllOf(HasSubstr("lm_head: expected"), HasSubstr("bytes")));
}

TEST_F(PackedWeightsTest, AreNotForOtherBackends) {
  Write(Packed());
  const auto reference = MakeBackend("reference");
  const Checkpoint checkpoint(Path());
  EXPECT_FALSE(OpenPackedWeights(checkpoint, *reference).has_value());
  try {
    WritePackedWeights(checkpoint, *reference, Path("other"));
    FAIL() << "written";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("reference"));
  }
  EXPECT_FALSE(fs::exists(Path("other")));
}

TEST_F(PackedWeightsTest, NothingIsLeftWhereTheWeightsAreBroken) {
  RandomMixtral random = Packed();
  random.edit = [](const std::string& name, std::vector<float>& values) {
    if (name == "lm_head.weight") values[5] = std::numeric_limits<float>::quiet_NaN();
  };
  testing::WriteRandomMixtral(random, Path());
  EXPECT_THROW(WritePackedWeights(Checkpoint(Path()), *backend_, File()), Error);
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(Path())) files += entry.is_regular_file();
  EXPECT_EQ(files, 2u);  // the checkpoint's own
}

}  // namespace
}  // namespace nibble
