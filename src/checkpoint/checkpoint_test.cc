#include "checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "base/system.h"
#include "checkpoint/safetensors.h"
#include "nibble/error.h"
#include "tests/support/reference_data.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kConfig[] =
    R"({"model_type": "mixtral", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 4,
  "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2,
  "num_experts_per_tok": 1)";

std::string ErrorOf(ErrorCode code, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

// A model folder in the making.
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() { WriteConfig(""); }

  fs::path Path(const std::string& name = "") const { return directory_.path() / name; }

  void WriteConfig(const std::string& more) const {
    WriteTextFile(Path("config.json"), kConfig + more + "}");
  }

  // Tensors of four floats, each filled with its place in the list.
  void WriteShard(const std::string& file, const std::vector<std::string>& names) const {
    std::vector<Tensor> tensors;
    std::vector<std::pair<std::string, TensorView>> views;
    for (const std::string& name : names) {
      const auto value = static_cast<float>(tensors.size());
      tensors.push_back(FromFloat(std::vector<float>(4, value), DType::kF32, {2, 2}));
      views.emplace_back(name, tensors.back().view());
    }
    WriteSafetensors(Path(file), views);
  }

  void WriteIndex(const std::vector<std::pair<std::string, std::string>>& files) const {
    Json map = Json::object();
    for (const auto& [name, file] : files) map[name] = file;
    WriteTextFile(Path("model.safetensors.index.json"), Json({{"weight_map", map}}).dump());
  }

  // The error message of opening, without the folder's name.
  std::string OpeningError(ErrorCode code) const {
    std::string message = ErrorOf(code, [this] { Checkpoint{Path()}; });
    EXPECT_THAT(message, HasSubstr(directory_.path().string()));
    return message;
  }

 private:
  testing::TemporaryDirectory directory_;
};

TEST_F(CheckpointTest, OpensASingleFile) {
  WriteShard("model.safetensors", {"b", "a"});
  const Checkpoint checkpoint(Path());
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b"));
  EXPECT_EQ(checkpoint.num_shards(), 1);
  EXPECT_EQ(checkpoint.total_bytes(), 32);
  EXPECT_TRUE(checkpoint.Has("a"));
  EXPECT_FALSE(checkpoint.Has("c"));
  EXPECT_THAT(checkpoint.Get("a").As<float>(), ElementsAre(1, 1, 1, 1));
  EXPECT_EQ(checkpoint.directory(), Path());
  EXPECT_EQ(checkpoint.config().hidden_size, 8);
  EXPECT_FALSE(checkpoint.quant_config().has_value());
}

TEST_F(CheckpointTest, OpensShardsThroughSymbolicLinksAndOutlivesAMove) {
  fs::create_directory(Path("blobs"));
  WriteShard("blobs/0a", {"a", "b"});
  WriteShard("model-00002-of-00002.safetensors", {"c"});
  fs::create_symlink("blobs/0a", Path("model-00001-of-00002.safetensors"));
  WriteIndex({{"a", "model-00001-of-00002.safetensors"},
              {"b", "model-00001-of-00002.safetensors"},
              {"c", "model-00002-of-00002.safetensors"}});
  Checkpoint first(Path());
  const TensorView view = first.Get("b");
  const Checkpoint second(std::move(first));
  EXPECT_THAT(view.As<float>(), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(second.names(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(second.num_shards(), 2);
  EXPECT_EQ(second.declared_bytes(), std::nullopt);
}

TEST_F(CheckpointTest, RepeatsWhatTheIndexDeclaresWithoutTrustingIt) {
  WriteShard("s.safetensors", {"a"});
  const struct {
    const char* metadata;
    std::optional<int64_t> declared;
  } cases[] = {{R"({"total_size": 16})", 16},
               {R"({"total_size": 99})", 99},
               {R"({"total_size": 16.0})", {}},
               {R"({"total_size": "16"})", {}},
               {R"({"total_parameters": 4})", {}},
               {"null", {}},
               {"[]", {}}};
  for (const auto& [metadata, declared] : cases) {
    WriteTextFile(
        Path("model.safetensors.index.json"),
        fmt::format(R"({{"metadata": {}, "weight_map": {{"a": "s.safetensors"}}}})", metadata));
    const Checkpoint checkpoint(Path());
    EXPECT_EQ(checkpoint.declared_bytes(), declared) << metadata;
    EXPECT_EQ(checkpoint.total_bytes(), 16);
  }
}

TEST_F(CheckpointTest, IgnoresOtherLayoutsBesideSafetensors) {
  WriteShard("model.safetensors", {"a"});
  WriteShard("consolidated.00.safetensors", {"a"});
  WriteTextFile(Path("pytorch_model.bin"), "x");
  WriteTextFile(Path("params.json"), "x");
  EXPECT_THAT(Checkpoint(Path()).names(), ElementsAre("a"));
}

TEST_F(CheckpointTest, SaysWhatIsNoModel) {
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { Checkpoint{Path("absent")}; }),
              HasSubstr("expected a model directory, found nothing"));
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { Checkpoint{Path("config.json")}; }),
              HasSubstr("expected a model directory, found a file"));
  EXPECT_THAT(
      OpeningError(ErrorCode::kNotFound),
      HasSubstr("expected model.safetensors or model.safetensors.index.json, found neither"));
  WriteShard("consolidated.safetensors", {"a"});
  EXPECT_THAT(
      OpeningError(ErrorCode::kNotFound),
      HasSubstr("\"consolidated.safetensors\" is another layout, which nibble does not read"));
  WriteShard("model-00001-of-00002.safetensors", {"a"});
  EXPECT_THAT(OpeningError(ErrorCode::kNotFound),
              HasSubstr("model.safetensors.index.json is missing"));
  fs::remove(Path("config.json"));
  EXPECT_THAT(OpeningError(ErrorCode::kNotFound), HasSubstr("config.json"));
}

TEST_F(CheckpointTest, NamesWhatNoIndexMayList) {
  WriteShard("s1.safetensors", {"a", "b"});
  const struct {
    std::vector<std::pair<std::string, std::string>> index;
    ErrorCode code;
    const char* message;
  } cases[] = {
      {{{"a", "s1.safetensors"}, {"b", "s3.safetensors"}},
       ErrorCode::kNotFound,
       "s3.safetensors: no such file, though model.safetensors.index.json names it"},
      {{{"a", "../s1.safetensors"}},
       ErrorCode::kInvalidData,
       "\"../s1.safetensors\" is not a plain file name"},
      {{{"a", ".."}}, ErrorCode::kInvalidData, "\"..\" is not a plain file name"},
      {{{"a", ""}}, ErrorCode::kInvalidData, "\"\" is not a plain file name"},
  };
  for (const auto& [index, code, message] : cases) {
    WriteIndex(index);
    EXPECT_THAT(OpeningError(code), HasSubstr(message));
  }
}

// Only who needs such a tensor meets the error.
TEST_F(CheckpointTest, TheIndexDecidesWhatBelongs) {
  WriteShard("s1.safetensors", {"moved", "doubled", "stray", "a"});
  WriteShard("s2.safetensors", {"b", "doubled"});
  WriteIndex({{"a", "s1.safetensors"},
              {"b", "s2.safetensors"},
              {"doubled", "s2.safetensors"},
              {"moved", "s2.safetensors"},
              {"lost", "s2.safetensors"}});
  const Checkpoint checkpoint(Path());
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b", "doubled"));
  EXPECT_THAT(checkpoint.lost(), ElementsAre("lost", "moved"));
  EXPECT_THAT(checkpoint.unlisted(), ElementsAre("stray"));
  EXPECT_EQ(checkpoint.total_bytes(), 3 * 16);
  EXPECT_THAT(checkpoint.Get("doubled").As<float>(), ElementsAre(1, 1, 1, 1));  // of s2
  EXPECT_FALSE(checkpoint.Has("stray"));
  const struct {
    const char* tensor;
    const char* message;
  } cases[] = {
      {"lost", "index.json: tensor \"lost\" should be in s2.safetensors, which lacks it"},
      {"moved",
       "index.json: tensor \"moved\" should be in s2.safetensors, it is in s1.safetensors"},
      {"stray", "s1.safetensors: tensor \"stray\" is not listed in model.safetensors.index.json"},
  };
  for (const auto& [tensor, message] : cases) {
    EXPECT_THAT(ErrorOf(ErrorCode::kInvalidData, [&] { checkpoint.Get(tensor); }),
                HasSubstr(message));
    EXPECT_THAT(checkpoint.Disagreement(tensor).value_or(""), HasSubstr(message));
  }
  EXPECT_EQ(checkpoint.Disagreement("a"), std::nullopt);
  EXPECT_EQ(checkpoint.Disagreement("doubled"), std::nullopt);
  EXPECT_EQ(checkpoint.Disagreement("absent"), std::nullopt);
}

TEST_F(CheckpointTest, RefusesAMalformedIndex) {
  for (const char* text : {"[]", "{}", "{\"weight_map\": 3}", "{\"weight_map\": {\"a\": 1}}",
                           "{\"weight_map\"", "{\"weight_map\": {\"a\": \"x\", \"a\": \"x\"}}"}) {
    WriteTextFile(Path("model.safetensors.index.json"), text);
    EXPECT_THAT(OpeningError(ErrorCode::kInvalidData), HasSubstr("model.safetensors.index.json"));
  }
}

TEST_F(CheckpointTest, NamesATruncatedShard) {
  WriteShard("model.safetensors", {"a", "b"});
  fs::resize_file(Path("model.safetensors"), fs::file_size(Path("model.safetensors")) - 1);
  const std::string message = OpeningError(ErrorCode::kInvalidData);
  EXPECT_THAT(message, HasSubstr("model.safetensors: tensor \"b\""));
  EXPECT_THAT(message, HasSubstr("truncated"));
  fs::resize_file(Path("model.safetensors"), 0);
  EXPECT_THAT(OpeningError(ErrorCode::kInvalidData), HasSubstr("0 bytes are too few"));
}

TEST_F(CheckpointTest, PassesConfigErrorsOn) {
  WriteShard("model.safetensors", {"a"});
  WriteTextFile(Path("config.json"), "{");
  EXPECT_THAT(OpeningError(ErrorCode::kInvalidData), HasSubstr("config.json: not valid JSON"));
  WriteConfig(R"(, "quantization_config": {"quant_method": "awq"})");
  EXPECT_THAT(OpeningError(ErrorCode::kUnsupported),
              HasSubstr("config.json: quantization_config: quant_method"));
}

TEST_F(CheckpointTest, ChecksShapeAndTypeOnRequest) {
  const Tensor integers(DType::kI32, {2, 2});
  const Tensor floats(DType::kF16, {2, 2});
  WriteSafetensors(Path("model.safetensors"), {{"i", integers.view()}, {"f", floats.view()}});
  const Checkpoint checkpoint(Path());
  EXPECT_EQ(checkpoint.Get("f", {2, 2}).dtype(), DType::kF16);
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidData, [&] { checkpoint.Get("f", {4}); }),
              HasSubstr("model.safetensors: tensor \"f\": expected shape [4], found [2, 2]"));
  EXPECT_THAT(ErrorOf(ErrorCode::kUnsupported, [&] { checkpoint.Get("i", {2, 2}); }),
              HasSubstr("tensor \"i\": expected BF16, F16 or F32, found I32"));
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { checkpoint.Get("x"); }),
              HasSubstr("no tensor \"x\""));
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { checkpoint.Get("x", {1}); }),
              HasSubstr("no tensor \"x\""));
}

// Element types of other programs do no harm to those who do not need these tensors.
TEST_F(CheckpointTest, CarriesForeignTypesAsBytes) {
  const std::string json =
      R"({"m.weight_packed":{"dtype":"U4","shape":[16,16],"data_offsets":[0,3]},)"
      R"("f":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}})";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(json.size());
  WriteTextFile(Path("model.safetensors"), bytes + json + "abcdefg");
  WriteConfig(R"(, "quantization_config": {"config_groups": {"W4A16": ["Linear"]}})");
  SetLogLevel(LogLevel::kOff);  // of the misaligned "f"
  const Checkpoint checkpoint(Path());
  SetLogLevel(LogLevel::kInfo);
  EXPECT_EQ(checkpoint.total_bytes(), 7);
  const TensorInfo& info = checkpoint.Info("m.weight_packed");
  EXPECT_EQ(info.dtype, "U4");
  EXPECT_EQ(info.shape, (Shape{16, 16}));
  EXPECT_EQ(info.size_bytes, 3);
  EXPECT_EQ(checkpoint.Info("f").dtype, "F32");
  EXPECT_THAT(checkpoint.Get("m.weight_packed").As<uint8_t>(), ElementsAre('a', 'b', 'c'));
  EXPECT_THAT(
      ErrorOf(ErrorCode::kUnsupported, [&] { checkpoint.Get("m.weight_packed", {16, 16}); }),
      HasSubstr("tensor \"m.weight_packed\": expected BF16, F16 or F32, found U4"));
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidData, [&] { checkpoint.GetPacked("m", 16, 128); }),
              HasSubstr("weight_packed: expected I32 [16, 16], found U4 [16, 16]"));
}

// Files written before headers were padded: the data begins at any offset.
TEST_F(CheckpointTest, CopiesMisalignedTensorsWhenTheyAreUsed) {
  const std::string json =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}})";
  for (size_t padding = 0; padding < 4; ++padding) {
    const std::string header = json + std::string(padding, ' ');
    std::string bytes(8, '\0');
    bytes[0] = static_cast<char>(header.size());
    bytes += header;
    const float values[] = {0.25f, -3.0f};
    bytes.append(reinterpret_cast<const char*>(values), sizeof(values));
    WriteTextFile(Path("model.safetensors"), bytes + "u");

    SetLogLevel(LogLevel::kOff);
    const Checkpoint checkpoint(Path());
    SetLogLevel(LogLevel::kInfo);
    EXPECT_THAT(checkpoint.Get("a").As<float>(), ElementsAre(0.25f, -3.0f));
    EXPECT_EQ(checkpoint.Get("a").data(), checkpoint.Get("a").data());
    EXPECT_EQ(checkpoint.Get("b").As<uint8_t>()[0], 'u');
    checkpoint.WillNeed(checkpoint.Get("a"));  // copies are unaffected
    checkpoint.DontNeed(checkpoint.Get("a"));
    EXPECT_THAT(checkpoint.Get("a", {2}).As<float>(), ElementsAre(0.25f, -3.0f));

    std::vector<std::jthread> readers;
    for (int i = 0; i < 3; ++i) {
      readers.emplace_back([&] { EXPECT_EQ(checkpoint.Get("a").As<float>()[1], -3.0f); });
    }
  }
}

TEST_F(CheckpointTest, ForgetsPagesOnRequest) {
  constexpr int64_t kElements = 8 << 20;  // 32 MiB
  const Tensor tensor = FromFloat(std::vector<float>(kElements, 1.0f), DType::kF32, {kElements});
  WriteSafetensors(Path("model.safetensors"), {{"t", tensor.view()}});
  const Checkpoint checkpoint(Path());
  const auto resident_kb = [] {
    const std::string status = ReadTextFile("/proc/self/status");
    return std::stoll(status.substr(status.find("RssFile:") + 8));
  };
  const TensorView view = checkpoint.Get("t");
  const auto sum = [&] {
    double total = 0;
    for (const float value : view.As<float>()) total += value;
    return total;
  };
  const int64_t before = resident_kb();
  EXPECT_EQ(sum(), 8 << 20);
  EXPECT_GE(resident_kb(), before + 30'000);
  checkpoint.DontNeed(view);
  EXPECT_LE(resident_kb(), before + 2'000);
  checkpoint.WillNeed(view);
  EXPECT_EQ(sum(), 8 << 20);
}

// One packed Linear of 16 x 16 in groups of 8, in each variant.
class PackedCheckpointTest : public CheckpointTest {
 protected:
  struct Variant {
    int bits = 4;
    int64_t group_size = 8;
    bool symmetric = true;
    const char* act_order = "null";
  };

  void Write(const Variant& variant, const std::function<void()>& spoil = [] {}) {
    const bool channel = variant.group_size == -1;
    WriteConfig(fmt::format(
        R"(, "quantization_config": {{"quant_method": "compressed-tensors", "config_groups":
      {{"group_0": {{"targets": ["Linear"], "weights": {{"num_bits": {}, "group_size": {}, "strategy": "{}",
      "symmetric": {}, "actorder": {}}}}}}}}})",
        variant.bits, channel ? "null" : std::to_string(variant.group_size),
        channel ? "channel" : "group", variant.symmetric, variant.act_order));
    const int64_t groups = channel ? 1 : 16 / variant.group_size;
    tensors_.clear();
    tensors_["weight_packed"] = PackCodes(std::vector<int8_t>(256, 3), 16, 16, variant.bits);
    tensors_["weight_scale"] =
        FromFloat(std::vector<float>(16 * groups, 0.5f), DType::kBF16, {16, groups});
    tensors_["weight_shape"] = Tensor::FromVector<int64_t>({16, 16}, {2});
    if (!variant.symmetric) {
      tensors_["weight_zero_point"] =
          PackZeroPoints(std::vector<int8_t>(16 * groups, 1), 16, groups, variant.bits);
    }
    if (std::string_view(variant.act_order) == "\"group\"") {
      std::vector<int32_t> order;
      for (int i = 0; i < 16; ++i) order.push_back(i % static_cast<int>(groups));
      tensors_["weight_g_idx"] = Tensor::FromVector(order, {16});
    }
    spoil();
    std::vector<std::pair<std::string, TensorView>> views;
    for (const auto& [suffix, tensor] : tensors_) views.emplace_back("m." + suffix, tensor.view());
    WriteSafetensors(Path("model.safetensors"), views);
  }

  std::map<std::string, Tensor> tensors_;
};

TEST_F(PackedCheckpointTest, ReadsEveryVariant) {
  for (const int bits : {4, 8}) {
    for (const int64_t group_size : {-1, 8, 16}) {
      for (const bool symmetric : {true, false}) {
        for (const char* order : {"null", "\"static\"", "\"group\""}) {
          Write({bits, group_size, symmetric, order});
          const Checkpoint checkpoint(Path());
          EXPECT_TRUE(checkpoint.IsPacked("m"));
          EXPECT_FALSE(checkpoint.IsPacked("n"));
          const PackedView view = checkpoint.GetPacked("m", 16, 16);
          EXPECT_EQ(view.bits, bits);
          EXPECT_EQ(view.group_size, group_size == -1 ? 16 : group_size);
          EXPECT_EQ(view.zero_point.has_value(), !symmetric);
          EXPECT_EQ(view.g_idx.has_value(), std::string_view(order) == "\"group\"");
          EXPECT_THAT(Dequantize(view), ::testing::Each(symmetric ? 1.5f : 1.0f));
        }
      }
    }
  }
}

TEST_F(PackedCheckpointTest, ReadsAShapeOfEitherWidth) {
  Write({}, [&] { tensors_["weight_shape"] = Tensor::FromVector<int32_t>({16, 16}, {2}); });
  EXPECT_EQ(Checkpoint(Path()).GetPacked("m", 16, 16).rows, 16);
  Write({}, [&] { tensors_["weight_shape"] = Tensor::FromVector<int32_t>({16, 15}, {2}); });
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidData, [&] { Checkpoint(Path()).GetPacked("m", 16, 16); }),
              HasSubstr("m: weight_shape: expected [16, 16], found [16, 15]"));
}

// What an opening says on stderr.
TEST_F(PackedCheckpointTest, WarnsOnceOfWhatItDoesNotApply) {
  Write({});
  const auto warnings = [&](const std::string& members) {
    WriteConfig(fmt::format(R"(, "quantization_config": {{"config_groups": {{"W4A16": ["Linear"]}},
                                 {}}})",
                            members));
    ::testing::internal::CaptureStderr();
    const Checkpoint checkpoint(Path());
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(warnings(R"("kv_cache_scheme": null, "ignore": ["re:(?i).*gate$", "lm_head"])"), "");
  const std::string cache = warnings(R"("kv_cache_scheme": {"num_bits": 8, "type": "float"})");
  EXPECT_THAT(cache, HasSubstr("kv_cache_scheme_not_applied"));
  EXPECT_EQ(std::count(cache.begin(), cache.end(), '\n'), 1);
  const std::string pattern = warnings(R"("ignore": ["re:.*(?<!proj)\\.gate$", "lm_head"])");
  EXPECT_THAT(pattern, HasSubstr("has a negative look-behind"));
  EXPECT_EQ(std::count(pattern.begin(), pattern.end(), '\n'), 1);
}

TEST_F(PackedCheckpointTest, TakesAnUnsetColumnOrderForNone) {
  Write({.act_order = "\"group\""},
        [&] { tensors_["weight_g_idx"] = Tensor::FromVector(std::vector<int32_t>(16, -1), {16}); });
  EXPECT_FALSE(Checkpoint(Path()).GetPacked("m", 16, 16).g_idx.has_value());
}

TEST_F(PackedCheckpointTest, NamesWhatIsWrongWithAModule) {
  const Variant plain;
  const Variant asymmetric = {.symmetric = false};
  const Variant ordered = {.act_order = "\"group\""};
  const auto put = [this](const char* suffix, DType dtype, Shape shape) {
    return [this, suffix, dtype, shape] { tensors_[suffix] = Tensor(dtype, shape); };
  };
  const auto drop = [this](const char* suffix) {
    return [this, suffix] { tensors_.erase(suffix); };
  };
  const struct {
    Variant variant;
    std::function<void()> spoil;
    ErrorCode code;
    const char* message;
  } cases[] = {
      {plain, drop("weight_packed"), ErrorCode::kNotFound, "no tensor \"m.weight_packed\""},
      {plain, drop("weight_scale"), ErrorCode::kNotFound, "no tensor \"m.weight_scale\""},
      {plain, drop("weight_shape"), ErrorCode::kNotFound, "no tensor \"m.weight_shape\""},
      {asymmetric, drop("weight_zero_point"), ErrorCode::kNotFound,
       "no tensor \"m.weight_zero_point\""},
      {ordered, drop("weight_g_idx"), ErrorCode::kNotFound, "no tensor \"m.weight_g_idx\""},
      {plain, put("weight_packed", DType::kI32, {16, 3}), ErrorCode::kInvalidData,
       "m: weight_packed: expected I32 [16, 2], found I32 [16, 3]"},
      {plain, put("weight_packed", DType::kF32, {16, 2}), ErrorCode::kInvalidData,
       "m: weight_packed: expected I32 [16, 2], found F32 [16, 2]"},
      {plain, put("weight_scale", DType::kBF16, {2, 16}), ErrorCode::kInvalidData,
       "m: weight_scale: expected BF16 or F16 or F32 [16, 2], found BF16 [2, 16]"},
      {plain, put("weight_scale", DType::kF8E4M3, {16, 2}), ErrorCode::kInvalidData,
       "found F8_E4M3 [16, 2]"},
      {plain, put("weight_shape", DType::kI8, {2}), ErrorCode::kInvalidData,
       "m: weight_shape: expected I64 or I32 [2], found I8 [2]"},
      {plain, put("weight_shape", DType::kI64, {2}), ErrorCode::kInvalidData,
       "m: weight_shape: expected [16, 16], found [0, 0]"},
      {plain, put("weight_zero_point", DType::kI32, {2, 2}), ErrorCode::kInvalidData,
       "m: weight_zero_point is there, though quantization_config says symmetric"},
      {asymmetric, put("weight_zero_point", DType::kI32, {16, 2}), ErrorCode::kInvalidData,
       "m: weight_zero_point: expected I32 [2, 2], found I32 [16, 2]"},
      {plain, put("weight_g_idx", DType::kI32, {16}), ErrorCode::kInvalidData,
       "m: weight_g_idx is there, though quantization_config has no actorder group"},
      {ordered, [this] { tensors_["weight_g_idx"].As<int32_t>()[5] = 2; }, ErrorCode::kInvalidData,
       "m: weight_g_idx: column 5: expected a group below 2, found 2"},
      {{.group_size = 5},
       [] {},
       ErrorCode::kInvalidData,
       "m: 16 columns are not a multiple of group_size 5"},
  };
  for (const auto& [variant, spoil, code, message] : cases) {
    Write(variant.group_size == 5 ? plain : variant, spoil);
    if (variant.group_size == 5) {
      WriteConfig(
          R"(, "quantization_config": {"config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 5}}}})");
    }
    const Checkpoint checkpoint(Path());
    EXPECT_THAT(ErrorOf(code, [&] { checkpoint.GetPacked("m", 16, 16); }), HasSubstr(message));
  }
  Write(plain);
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidData, [&] { Checkpoint(Path()).GetPacked("m", 32, 16); }),
              HasSubstr("weight_packed: expected I32 [32, 2]"));
  WriteConfig("");
  EXPECT_THAT(ErrorOf(ErrorCode::kInvalidData, [&] { Checkpoint(Path()).GetPacked("m", 16, 16); }),
              HasSubstr("m: packed, though config.json has no quantization_config"));
}

TEST(Checkpoint, OpensTheDemonstrationModel) {
  NIBBLE_REQUIRE_REFERENCE("models/tinymix");
  const Checkpoint model(testing::ReferenceData() / "models/tinymix");
  EXPECT_EQ(model.names().size(), 127u);
  EXPECT_EQ(model.num_shards(), 2);
  EXPECT_EQ(model.config().num_parameters(), 12'331'264);
  EXPECT_EQ(model.total_bytes(), 2 * 12'331'264);
}

TEST(Checkpoint, NamesTheFirstMissingShardOfAnEmptyDownload) {
  NIBBLE_REQUIRE_REFERENCE("tokenizers/mixtral-8x22b/model.safetensors.index.json");
  const fs::path directory = testing::ReferenceData() / "tokenizers/mixtral-8x22b";
  const Json index = ReadJsonFile(directory / "model.safetensors.index.json");
  EXPECT_EQ(index["weight_map"].size(), 1739u);
  EXPECT_THAT(ErrorOf(ErrorCode::kNotFound, [&] { Checkpoint{directory}; }),
              HasSubstr("model-00001-of-00059.safetensors: no such file"));
}

// The published name of a module under its llm-compressor 0.14 name.
std::string PublishedName(std::string module) {
  for (const auto& [newer, published] :
       {std::pair{"gate_proj", "w1"}, {"up_proj", "w3"}, {"down_proj", "w2"}}) {
    if (module.ends_with(newer)) {
      module.replace(module.size() - std::string_view(newer).size(), std::string::npos, published);
    }
  }
  return module;
}

// Element k of a row is nibble k of its bytes, low nibble first, less 8.
int SlowCode(const TensorView& packed, int64_t row, int64_t col, int64_t cols) {
  const auto byte = std::to_integer<int>(packed.data()[row * (cols / 2) + col / 2]);
  return (col % 2 == 0 ? byte & 15 : byte >> 4) - 8;
}

TEST(Checkpoint, DecodesWhatLlmCompressorWrote) {
  for (const char* name :
       {"llmcompressor_w4a16", "llmcompressor_w4a16_all_experts", "llmcompressor_w4a16_v041"}) {
    NIBBLE_REQUIRE_REFERENCE(fs::path("golden/tinymix") / name);
    const Checkpoint dense(testing::ReferenceData() / "models/tinymix");
    const Checkpoint packed(testing::ReferenceData() / "golden/tinymix" / name);
    int64_t modules = 0;
    int64_t scales = 0;
    int64_t codes = 0;
    for (const std::string& tensor : packed.names()) {
      constexpr std::string_view kSuffix = ".weight_packed";
      if (!tensor.ends_with(kSuffix)) {
        if (tensor.find(".weight_") == std::string::npos) {  // copied, bit for bit
          ASSERT_TRUE(std::ranges::equal(packed.Get(tensor).bytes(), dense.Get(tensor).bytes()))
              << tensor;
        }
        continue;
      }
      const std::string module = tensor.substr(0, tensor.size() - kSuffix.size());
      const TensorView original = dense.Get(PublishedName(module) + ".weight");
      const int64_t rows = original.shape()[0];
      const int64_t cols = original.shape()[1];
      const std::vector<float> weights = ToFloat(original);
      const PackedView view = packed.GetPacked(module, rows, cols);
      const std::vector<float> values = Dequantize(view);
      const std::vector<float> stored = ToFloat(view.scales);
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t group = 0; group < cols / 128; ++group) {
          const float scale = stored[row * (cols / 128) + group];
          float largest = 0;
          for (int64_t col = 128 * group; col < 128 * (group + 1); ++col) {
            const auto at = static_cast<size_t>(row * cols + col);
            largest = std::max(largest, std::abs(weights[at]));
            ASSERT_EQ(values[at],
                      static_cast<float>(SlowCode(view.packed, row, col, cols)) * scale);
          }
          ASSERT_EQ(scale, static_cast<float>(BFloat16(largest / 7.5f))) << module;
          ++scales;
        }
      }
      codes += rows * cols;
      ++modules;
    }
    EXPECT_EQ(modules, 112);
    EXPECT_EQ(scales, 79'872);
    EXPECT_EQ(codes, 10'223'616);
  }
}

}  // namespace
}  // namespace nibble
