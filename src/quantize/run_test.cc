#include "quantize/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <random>

#include "base/file.h"
#include "base/float16.h"
#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "model/validate.h"
#include "model/weights.h"
#include "quantize/passes/token_batches.h"
#include "quantize/report.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nibble::testing::RandomMixtral;
using nibble::testing::RandomTokens;
using nibble::testing::TemporaryDirectory;
using nibble::testing::WriteRandomMixtral;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

// Dimensions divisible by groups of 32, and by little else.
RandomMixtral SmallModel() {
  RandomMixtral model;
  model.hidden_size = 96;
  model.intermediate_size = 160;
  model.head_dim = 16;
  model.num_layers = 3;
  return model;
}

CalibrationSet SmallCalibration(int64_t vocab_size, int64_t sequences = 12) {
  CalibrationSet set;
  for (int64_t i = 0; i < sequences; ++i) {
    set.sequences.push_back(RandomTokens(3 + i * 17 % 90, vocab_size, static_cast<uint64_t>(i)));
    set.rows.push_back(100 + i);
    set.num_tokens += static_cast<int64_t>(set.sequences.back().size());
  }
  set.num_tokens_uncut = set.num_tokens;
  set.ids_sha256 = "calibration";
  return set;
}

class QuantizationRunTest : public ::testing::Test {
 protected:
  QuantizationRunTest() {
    options_.input = directory_.path() / "model";
    options_.recipe.group_size = "32";
    options_.threads = 2;
  }

  void WriteModel(const RandomMixtral& model) {
    model_ = model;
    WriteRandomMixtral(model, options_.input);
    calibration_ = SmallCalibration(model.vocab_size);
  }

  QuantizeReport Run(const std::string& output) {
    options_.output = directory_.path() / output;
    return QuantizationRun(options_, Calibration()).Run();
  }

  CalibrationLoader Calibration() const {
    return [this](const ModelConfig&) { return calibration_; };
  }

  // Digests of everything a reader of the checkpoint reads.
  std::map<std::string, std::string> Files(const std::string& output) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(directory_.path() / output)) {
      const std::string name = entry.path().filename().string();
      if (name != "quantization_report.jsonl") files[name] = Sha256File(entry.path());
    }
    return files;
  }

  std::string ErrorOf(const std::string& output) {
    try {
      Run(output);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  TemporaryDirectory directory_;
  RandomMixtral model_;
  CalibrationSet calibration_;
  QuantizeOptions options_;
};

TEST_F(QuantizationRunTest, WritesACheckpointThatReadsBack) {
  WriteModel(SmallModel());
  const QuantizeReport report = Run("out");
  EXPECT_EQ(report.num_fallbacks, 0);
  ASSERT_THAT(report.layers, SizeIs(3));
  for (const LayerReport& layer : report.layers) {
    EXPECT_THAT(layer.linears, SizeIs(4 + 3 * 5));
    EXPECT_GT(layer.divergence.kl, 0);
    int64_t tokens = 0;
    for (const int64_t count : layer.expert_tokens) tokens += count;
    EXPECT_EQ(tokens, 2 * calibration_.num_tokens);
    for (const LinearReport& linear : layer.linears) {
      EXPECT_EQ(linear.method, "gptq");
      EXPECT_LT(linear.ratio_to_rtn(), 1) << linear.module;
    }
  }
  EXPECT_EQ(report.quantized_perplexity, report.read_back_perplexity);
  EXPECT_NEAR(report.read_back_perplexity / report.original_perplexity, 1, 0.2);

  const Checkpoint written(options_.output);
  EXPECT_EQ(ValidateStructure(written).verdict(), Grade::kOk);
  const std::optional<QuantConfig>& config = written.quant_config();
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->group_size, 32);
  EXPECT_THAT(config->ignore, ElementsAre("model.layers.0.block_sparse_moe.gate",
                                          "model.layers.1.block_sparse_moe.gate",
                                          "model.layers.2.block_sparse_moe.gate", "lm_head"));
  EXPECT_FALSE(fs::exists(options_.output / "nibble-resume.jsonl"));
  const Checkpoint source(options_.input);
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
                           "model.layers.1.block_sparse_moe.gate.weight"}) {
    const auto before = source.Get(name).bytes(), after = written.Get(name).bytes();
    EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin(), after.end())) << name;
  }
}

TEST_F(QuantizationRunTest, TheFinishedLayersAreWhatTheReportSays) {
  WriteModel(SmallModel());
  const QuantizeReport report = Run("out");
  std::ifstream lines(options_.output / "quantization_report.jsonl");
  std::map<std::string, int> events;
  std::string line;
  while (std::getline(lines, line)) ++events[Json::parse(line)["event"].get<std::string>()];
  EXPECT_EQ(events["run"], 1);
  EXPECT_EQ(events["linear"], 3 * 19);
  EXPECT_EQ(events["layer"], 3);
  EXPECT_EQ(events["result"], 1);
  EXPECT_EQ(events["file"], static_cast<int>(report.files.size()));
  const auto files = Files("out");
  for (const WrittenFile& file : report.files) EXPECT_EQ(files.at(file.name), file.sha256);
  EXPECT_THAT(ReportTable(report), HasSubstr("0 fallbacks\n"));
  // What a layer's report holds survives the ledger.
  const LayerReport back = LayerReportFromJson(ToJson(report.layers[1]), "test");
  EXPECT_EQ(ToJson(back)["linears"], ToJson(report.layers[1])["linears"]);
}

TEST_F(QuantizationRunTest, BytesDependOnNeitherThreadsNorMemory) {
  WriteModel(SmallModel());
  Run("a");
  options_.threads = 1;
  Run("one_thread");
  EXPECT_EQ(Files("one_thread"), Files("a"));
  options_.threads = 5;
  // The smallest budget: one expert at a time, activations in a file.
  const QuantizePlan plenty = QuantizationRun(options_, Calibration()).plan();
  EXPECT_EQ(plenty.experts_at_once, 5);
  options_.memory_bytes = plenty.memory_bytes;
  QuantizePlan least = plenty;
  for (;;) {
    options_.memory_bytes -= 20'000;
    const QuantizePlan plan = QuantizationRun(options_, Calibration()).plan();
    if (!plan.lacking.empty()) {
      EXPECT_THAT(plan.lacking, ElementsAre(HasSubstr("one expert at a time needs")));
      break;
    }
    least = plan;
  }
  EXPECT_THAT(ErrorOf("too_little_memory"), HasSubstr("one expert at a time needs"));
  EXPECT_FALSE(fs::exists(directory_.path() / "too_little_memory"));
  EXPECT_EQ(least.experts_at_once, 1);
  EXPECT_TRUE(least.activations_in_file);
  options_.memory_bytes += 20'000;
  const QuantizeReport report = Run("little_memory");
  EXPECT_TRUE(report.plan.activations_in_file);
  EXPECT_EQ(Files("little_memory"), Files("a"));
}

// Runs it in a child process that is killed after `microseconds`. True if it finished
// first.
bool RunAndKill(const QuantizeOptions& options, const CalibrationSet& calibration,
                useconds_t microseconds) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      QuantizationRun(options, [&](const ModelConfig&) { return calibration; }).Run();
      _exit(0);
    } catch (const Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      _exit(1);
    }
  }
  usleep(microseconds);
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
  return WIFEXITED(status);
}

TEST_F(QuantizationRunTest, KilledAtRandomTimesAndResumedItEndsInTheSameBytes) {
  WriteModel(SmallModel());
  options_.max_shard_bytes = 60'000;  // a shard a layer
  Run("whole");
  const auto expected = Files("whole");
  std::mt19937 random(17);
  int kills = 0;
  for (int run = 0; run < 4; ++run) {
    options_.output = directory_.path() / ("killed" + std::to_string(run));
    options_.resume = false;
    // Times grow, so that the run ends however slow the machine.
    for (useconds_t longest = 20'000;; longest += longest / 8) {
      if (RunAndKill(options_, calibration_, 1 + static_cast<useconds_t>(random() % longest)))
        break;
      ++kills;
      options_.resume = true;
      // Killed between the last act and the exit.
      const bool done = fs::exists(options_.output / "quantization_report.jsonl") &&
                        !fs::exists(options_.output / "nibble-resume.jsonl");
      if (done) break;
    }
    EXPECT_EQ(Files("killed" + std::to_string(run)), expected);
  }
  EXPECT_GT(kills, 4);
}

// Runs it into options.output until its ledger is there.
void Begin(const QuantizeOptions& options, const CalibrationSet& calibration) {
  for (useconds_t wait = 1000; !fs::exists(options.output / "nibble-resume.jsonl"); wait *= 2) {
    RunAndKill(options, calibration, wait);
    ASSERT_FALSE(fs::exists(options.output / "config.json")) << "finished before it was killed";
  }
}

TEST_F(QuantizationRunTest, ResumingWithOtherOptionsIsRefusedByName) {
  WriteModel(SmallModel());
  options_.output = directory_.path() / "out";
  Begin(options_, calibration_);
  EXPECT_THAT(ErrorOf("out"), HasSubstr("`resume`"));
  options_.resume = true;
  options_.recipe.dampening = 0.2;
  EXPECT_THAT(ErrorOf("out"), AllOf(HasSubstr("dampening = 0.1"), HasSubstr("0.2")));
  options_.recipe.dampening = 0.1;
  calibration_.ids_sha256 = "others";
  EXPECT_THAT(ErrorOf("out"), HasSubstr("calibration = "));
  calibration_.ids_sha256 = "calibration";
  RandomMixtral other = model_;
  other.seed = 2;
  WriteModel(other);
  EXPECT_THAT(ErrorOf("out"), HasSubstr("input = "));
}

// The last bits of GPTQ's sums depend on the machine: a run stays with what it was begun with.
TEST_F(QuantizationRunTest, ResumingWithOtherAlgebraIsRefusedByName) {
  WriteModel(SmallModel());
  Run("whole");
  options_.output = directory_.path() / "out";
  Begin(options_, calibration_);
  const fs::path ledger = options_.output / "nibble-resume.jsonl";
  const std::string text = ReadTextFile(ledger);
  const std::string ours = Json::parse(text.substr(0, text.find('\n')))["job"]["algebra"];
  const auto resume_with = [&](const std::string& algebra) {
    std::string changed = text;
    changed.replace(changed.find(ours), ours.size(), algebra);
    WriteTextFile(ledger, changed);
    return ErrorOf("out");
  };
  options_.resume = true;
  EXPECT_THAT(resume_with("abacus: beads 1.0"),
              AllOf(HasSubstr("algebra = \"abacus: beads 1.0\", now \"" + ours + "\""),
                    HasSubstr("NIBBLE_INSTRUCTION_SET=abacus")));
  EXPECT_THAT(resume_with(ours + "5"), AllOf(HasSubstr(ours), HasSubstr("the same library")));
  EXPECT_EQ(resume_with(ours), "no error");
  EXPECT_EQ(Files("out"), Files("whole"));

  // Rounding to nearest sums nothing.
  options_.resume = false;
  options_.recipe.method = "rtn";
  Run("rounded");
  EXPECT_THAT(ReadTextFile(options_.output / "quantization_report.jsonl"),
              Not(HasSubstr("algebra")));
}

TEST_F(QuantizationRunTest, EverySettingWritesWhatItSays) {
  WriteModel(SmallModel());
  struct Case {
    const char* name;
    void (*set)(QuantizeOptions&);
  };
  const Case cases[] = {
      {"rtn", [](QuantizeOptions& o) { o.recipe.method = "rtn"; }},
      {"mse", [](QuantizeOptions& o) { o.recipe.observer = "mse"; }},
      {"imatrix", [](QuantizeOptions& o) { o.recipe.observer = "imatrix_mse"; }},
      {"static", [](QuantizeOptions& o) { o.recipe.act_order = "static"; }},
      {"group", [](QuantizeOptions& o) { o.recipe.act_order = "group"; }},
      {"channel", [](QuantizeOptions& o) { o.recipe.group_size = "channel"; }},
      {"8bits", [](QuantizeOptions& o) { o.recipe.bits = 8; }},
      {"asymmetric", [](QuantizeOptions& o) { o.recipe.asymmetric = true; }},
      {"all", [](QuantizeOptions& o) { o.calibrate_all_experts = true; }},
      {"topup", [](QuantizeOptions& o) { o.top_up_experts = true; }},
      {"ignore", [](QuantizeOptions& o) { o.recipe.ignore.push_back("re:.*\\.o_proj"); }},
  };
  std::map<std::string, std::string> digests;
  for (const Case& c : cases) {
    const QuantizeOptions before = options_;
    c.set(options_);
    const QuantizeReport report = Run(c.name);
    options_ = before;
    EXPECT_EQ(report.num_fallbacks, 0) << c.name;
    EXPECT_GT(report.read_back_perplexity, 0) << c.name;
    const Checkpoint written(directory_.path() / c.name);
    EXPECT_EQ(ValidateStructure(written).verdict(), Grade::kOk)
        << ValidateStructure(written).Remarks();
    const std::string digest = Files(c.name).at("model.safetensors");
    EXPECT_TRUE(digests.emplace(digest, c.name).second) << c.name << " = " << digests[digest];
  }
  const Checkpoint ignored(directory_.path() / "ignore");
  EXPECT_FALSE(ignored.IsPacked("model.layers.0.self_attn.o_proj"));
  EXPECT_TRUE(ignored.IsPacked("model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(ignored.Has("model.layers.0.self_attn.o_proj.weight"));
}

TEST_F(QuantizationRunTest, StarvedExpertsAreNamedAndToppedUp) {
  RandomMixtral model = SmallModel();
  // The router of layer 1 never chooses expert 3.
  model.edit = [](const std::string& name, std::vector<float>& values) {
    if (name != "model.layers.1.block_sparse_moe.gate.weight") return;
    // Logits a, -a, b, 0, -b: two of the others are always above zero.
    for (size_t k = 0; k < 96; ++k) {
      values[1 * 96 + k] = -values[k];
      values[3 * 96 + k] = 0;
      values[4 * 96 + k] = -values[2 * 96 + k];
    }
  };
  WriteModel(model);
  options_.recipe.group_size = "32";
  const QuantizeReport report = Run("out");
  const LayerReport& layer = report.layers[1];
  ASSERT_EQ(layer.expert_tokens[3], 0) << "the model of this test does not starve its expert";
  EXPECT_THAT(layer.starved_experts, ::testing::Contains(3));
  EXPECT_FALSE(report.clean());
  EXPECT_THAT(ReportTable(report), HasSubstr("layer 1 expert 3 was routed 0 tokens"));
  for (const LinearReport& linear : layer.linears) {
    if (linear.module.find("experts.3.") == std::string::npos) continue;
    EXPECT_EQ(linear.tokens, 0);
  }
  options_.top_up_experts = true;
  const QuantizeReport topped = Run("topped");
  EXPECT_GT(topped.layers[1].expert_extra_tokens[3], 0);
  options_.top_up_experts = false;
  options_.calibrate_all_experts = true;
  const QuantizeReport all = Run("all");
  EXPECT_EQ(all.layers[1].expert_extra_tokens[3], calibration_.num_tokens);
}

TEST_F(QuantizationRunTest, EverySpellingAndTypeOfInputWorks) {
  RandomMixtral model = SmallModel();
  WriteModel(model);
  Run("published");
  const auto expected = Files("published");
  for (const auto spelling :
       {nibble::testing::ExpertSpelling::kProjections, nibble::testing::ExpertSpelling::kFused}) {
    fs::remove_all(options_.input);
    model.spelling = spelling;
    WriteModel(model);
    const std::string output = "spelling" + std::to_string(static_cast<int>(spelling));
    Run(output);
    EXPECT_EQ(Files(output).at("model.safetensors"), expected.at("model.safetensors"));
  }
  model.spelling = nibble::testing::ExpertSpelling::kPublished;
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    fs::remove_all(options_.input);
    model.dtype = dtype;
    WriteModel(model);
    const std::string output(DTypeName(dtype));
    Run(output);
    const Checkpoint written(directory_.path() / output);
    const DType expected_dtype = dtype == DType::kF16 ? DType::kF16 : DType::kBF16;
    EXPECT_EQ(written.Get("model.layers.0.self_attn.q_proj.weight_scale").dtype(), expected_dtype);
    EXPECT_EQ(written.Get("model.norm.weight").dtype(), expected_dtype);
    EXPECT_EQ(written.config().dtype, expected_dtype);
  }
  fs::remove_all(options_.input);
  model.dtype = DType::kBF16;
  model.tie_word_embeddings = true;
  WriteModel(model);
  Run("tied");
  EXPECT_FALSE(Checkpoint(directory_.path() / "tied").Has("lm_head.weight"));
}

// config.json states another type than the shards hold, or none: the run ends as it was planned.
TEST_F(QuantizationRunTest, AnotherTypeThanStatedIsCast) {
  const char* const words[] = {"bfloat16", "float16", "float32", ""};
  for (const DType stored : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const std::string stated : words) {
      RandomMixtral model = SmallModel();
      model.dtype = stored;
      WriteModel(model);
      nibble::testing::EditConfig(options_.input, [&](Json& config) {
        config.erase("torch_dtype");
        if (!stated.empty()) config["torch_dtype"] = stated;
      });
      const std::string output = std::string(DTypeName(stored)) + stated;
      Run(output);
      const Checkpoint written(directory_.path() / output);
      const DType expected = stated == "float16" || (stated.empty() && stored == DType::kF16)
                                 ? DType::kF16
                                 : DType::kBF16;
      EXPECT_EQ(written.config().dtype, expected);
      for (const std::string& name : written.names()) {
        const DType dtype = written.Get(name).dtype();
        EXPECT_TRUE(dtype == expected || !IsFloat(dtype)) << output << ": " << name;
      }
    }
  }
}

// Rounding without data runs nothing: what is copied has to be looked at all the same.
TEST_F(QuantizationRunTest, EveryKeptTensorIsChecked) {
  for (const char* name :
       {"model.embed_tokens.weight", "model.layers.1.input_layernorm.weight",
        "model.layers.2.post_attention_layernorm.weight",
        "model.layers.0.block_sparse_moe.gate.weight", "model.layers.2.self_attn.o_proj.weight",
        "model.layers.1.block_sparse_moe.experts.3.w2.weight", "model.norm.weight",
        "lm_head.weight"}) {
    RandomMixtral model = SmallModel();
    model.edit = [&](const std::string& tensor, std::vector<float>& values) {
      if (tensor == name) values[7] = std::numeric_limits<float>::quiet_NaN();
    };
    WriteModel(model);
    calibration_ = {};
    options_.recipe.method = "rtn";
    options_.recipe.ignore = {"lm_head", "re:.*gate$", "re:.*o_proj", "re:.*3\\.w2"};
    const std::string output = std::string("nan ") + name;
    EXPECT_THAT(ErrorOf(output), AllOf(HasSubstr(name), HasSubstr("nan")));
    EXPECT_FALSE(fs::exists(directory_.path() / output / "config.json"));
  }
}

TEST_F(QuantizationRunTest, TablesThatAreNotTiedSurvive) {
  WriteModel(SmallModel());
  nibble::testing::EditConfig(options_.input,
                              [](Json& config) { config["tie_word_embeddings"] = true; });
  Run("out");
  const Checkpoint source(options_.input), written(options_.output);
  EXPECT_FALSE(written.config().tie_word_embeddings);
  for (const char* name : {"lm_head.weight", "model.embed_tokens.weight"}) {
    EXPECT_TRUE(std::ranges::equal(written.Get(name).bytes(), source.Get(name).bytes())) << name;
  }
  nibble::testing::EditTensors(options_.input,
                               [](auto& tensors) { tensors.erase("model.embed_tokens.weight"); });
  Run("only head");
  EXPECT_FALSE(Checkpoint(options_.output).Has("lm_head.weight"));
  EXPECT_EQ(ValidateStructure(Checkpoint(options_.output)).verdict(), Grade::kOk);
}

TEST_F(QuantizationRunTest, LongSequencesAreCutIntoSteps) {
  RandomMixtral model = SmallModel();
  model.max_positions = 4096;
  WriteModel(model);
  calibration_.sequences[3] =
      RandomTokens(BatchTokens(ReadModelConfig(options_.input)) + 100, model.vocab_size, 99);
  const QuantizeReport report = Run("out");
  EXPECT_EQ(report.quantized_perplexity, report.read_back_perplexity);
}

TEST_F(QuantizationRunTest, APatternThatMatchesNothingIsToldOrRefused) {
  WriteModel(SmallModel());
  options_.output = directory_.path() / "out";
  EXPECT_THAT(QuantizationRun(options_, Calibration()).plan().unmatched_patterns, SizeIs(0));
  options_.recipe.ignore.insert(
      options_.recipe.ignore.end(),
      {"model.layers.1.self_attn.o_porj", "re:.*layers\\.1\\..*o_proj", "re:.*layers\\.9\\."});
  EXPECT_THAT(QuantizationRun(options_, Calibration()).plan().unmatched_patterns,
              ElementsAre("model.layers.1.self_attn.o_porj", "re:.*layers\\.9\\."));
  options_.strict = true;
  EXPECT_THAT(ErrorOf("out"),
              AllOf(HasSubstr("`ignore` \"model.layers.1.self_attn.o_porj\" matches no linear"),
                    HasSubstr("nearest: model.layers.1.self_attn.o_proj")));
  EXPECT_FALSE(fs::exists(options_.output));
}

TEST_F(QuantizationRunTest, BadInputIsNamedBeforeAnythingIsWritten) {
  WriteModel(SmallModel());
  const fs::path input = options_.input;
  EXPECT_THAT(ErrorOf("model"), HasSubstr("same directory"));
  options_.recipe.group_size = "128";
  EXPECT_THAT(ErrorOf("out"),
              AllOf(HasSubstr("model.layers.0.self_attn.q_proj"), HasSubstr("128")));
  options_.recipe.group_size = "32";
  options_.recipe.ignore = {"lm_head"};
  EXPECT_THAT(ErrorOf("out"), HasSubstr("would quantize this router"));
  options_.recipe = RecipeOptions();
  options_.recipe.group_size = "32";
  fs::create_directories(directory_.path() / "full");
  std::ofstream(directory_.path() / "full" / "something") << "precious";
  EXPECT_THAT(ErrorOf("full"), HasSubstr("not empty"));
  options_.resume = true;
  EXPECT_THAT(ErrorOf("full"), HasSubstr("no unfinished run"));
  EXPECT_TRUE(fs::exists(directory_.path() / "full" / "something"));
  options_.resume = false;
  const CalibrationSet set = std::exchange(calibration_, {});
  EXPECT_THAT(ErrorOf("out"), HasSubstr("`calibration`"));
  options_.recipe.method = "rtn";
  EXPECT_EQ(ErrorOf("rounded"), "no error");
  options_.input = directory_.path() / "rounded";
  EXPECT_THAT(ErrorOf("again"), HasSubstr("quantized already"));
  EXPECT_FALSE(fs::exists(directory_.path() / "out"));
  EXPECT_FALSE(fs::exists(directory_.path() / "again"));
}

// Reading the rows may take minutes: what is wrong without them is said before.
TEST_F(QuantizationRunTest, NothingIsReadForARunThatCannotBe) {
  WriteModel(SmallModel());
  bool read = false;
  const auto error_of = [&] {
    options_.output = directory_.path() / "out";
    try {
      QuantizationRun(options_, [&](const ModelConfig& config) {
        EXPECT_EQ(config.vocab_size, model_.vocab_size);
        read = true;
        return calibration_;
      });
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  options_.recipe.dampening = -1;
  EXPECT_THAT(error_of(), HasSubstr("dampening"));
  options_.recipe.dampening = 0.1;
  options_.recipe.group_size = "128";
  EXPECT_THAT(error_of(), HasSubstr("group size 128"));
  options_.recipe.group_size = "32";
  options_.recipe.method = "rtn";
  options_.top_up_experts = true;
  EXPECT_THAT(error_of(), HasSubstr("`top_up_experts`"));
  options_.recipe.method = "gptq";
  options_.top_up_experts = false;
  fs::rename(options_.input / "config.json", options_.input / "elsewhere.json");
  EXPECT_THAT(error_of(), HasSubstr("config.json"));
  fs::rename(options_.input / "elsewhere.json", options_.input / "config.json");
  EXPECT_FALSE(read);
  EXPECT_EQ(error_of(), "no error");
  EXPECT_TRUE(read);
}

TEST_F(QuantizationRunTest, ValuesThatAreNotNumbersAreNamedWithLayerAndTensor) {
  RandomMixtral model = SmallModel();
  model.edit = [](const std::string& name, std::vector<float>& values) {
    if (name == "model.layers.1.block_sparse_moe.experts.2.w3.weight") values[96 + 7] = NAN;
  };
  WriteModel(model);
  EXPECT_THAT(
      ErrorOf("nan"),
      AllOf(HasSubstr("model.layers.1.block_sparse_moe.experts.2.w3.weight"), HasSubstr("[1, 7]")));
  fs::remove_all(options_.input);
  model.edit = [](const std::string& name, std::vector<float>& values) {
    if (name != "model.layers.1.block_sparse_moe.experts.2.w3.weight" &&
        name != "model.layers.1.block_sparse_moe.experts.2.w1.weight") {
      return;
    }
    for (float& value : values) value *= 1e20f;  // finite, but their products overflow
  };
  WriteModel(model);
  EXPECT_THAT(ErrorOf("overflow"), AllOf(HasSubstr("layer 1"), HasSubstr("expert 2"),
                                         HasSubstr("of calibration row 1")));
}

}  // namespace
}  // namespace nibble
