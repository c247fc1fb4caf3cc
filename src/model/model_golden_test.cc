// The demonstration model against what transformers computed from it in float32. Protocols and
// tolerances: golden/tinymix/README.md of the reference data.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>

#include "backend/make_backend.h"
#include "base/file.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "model/batch_builder.h"
#include "model/scoring.h"
#include "tests/support/reference_data.h"

namespace nibble {
namespace {

std::filesystem::path Golden(const char* name) {
  return testing::ReferenceData() / "golden/tinymix" / name;
}

struct Prompt {
  std::string name;
  std::vector<int32_t> ids;
};

std::vector<Prompt> Prompts() {
  std::vector<Prompt> prompts;
  for (const Json& prompt : ReadJsonFile(Golden("prompts.json").string())) {
    prompts.push_back(
        {prompt["name"].get<std::string>(), prompt["ids"].get<std::vector<int32_t>>()});
  }
  return prompts;
}

// A backend under test and what is allowed of it.
struct Allowed {
  const char* backend;
  double absolute;  // largest error of a logit
  double relative;  // of a row of logits, in the 2-norm; 0: not asked
  double margin;    // of a greedy step below which another choice is excused
};

void PrintTo(const Allowed& allowed, std::ostream* out) { *out << allowed.backend; }

class TinymixGolden : public ::testing::TestWithParam<Allowed> {
 protected:
  void SetUp() override {
    NIBBLE_REQUIRE_REFERENCE("models/tinymix/config.json");
    NIBBLE_REQUIRE_REFERENCE("golden/tinymix/prompts.json");
    const Checkpoint checkpoint(testing::ReferenceData() / "models/tinymix");
    backend_ = MakeBackend(GetParam().backend);
    model_ = std::make_unique<Model>(checkpoint, *backend_, 512);
    vocab_ = static_cast<size_t>(model_->spec().vocab_size);
  }

  std::vector<float> Logits(const std::vector<int32_t>& ids) {
    std::vector<float> logits;
    SequenceLogits(*model_, ids, [&](int64_t, std::span<const float> run) {
      logits.insert(logits.end(), run.begin(), run.end());
    });
    return logits;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  size_t vocab_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Backends, TinymixGolden,
                         ::testing::Values(Allowed{"reference", 5e-4, 0, 5e-4},
                                           Allowed{"cpu", 1, 1e-3, 2e-2}),
                         [](const auto& test) { return std::string(test.param.backend); });

void ExpectRowClose(std::span<const float> actual, std::span<const float> expected,
                    const Allowed& allowed, const std::string& where) {
  ASSERT_EQ(actual.size(), expected.size());
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    ASSERT_LE(std::fabs(difference), allowed.absolute) << where << ", token " << i;
    error += difference * difference;
    norm += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  if (allowed.relative > 0) {
    EXPECT_LE(std::sqrt(error / norm), allowed.relative) << where;
  }
}

TEST_P(TinymixGolden, LogitsOfWholeRows) {
  const MappedFile file(Golden("logits_full.safetensors"));
  const SafetensorsHeader header = ParseSafetensorsHeader(
      file.bytes(), static_cast<int64_t>(file.bytes().size()), file.path().string());
  std::map<std::string, std::vector<float>> expected;
  for (const SafetensorsEntry& entry : header.entries) {
    expected[entry.name] = ToFloat(TensorView(
        file.bytes().data() + header.data_offset + entry.begin, entry.dtype, entry.shape));
  }
  size_t compared = 0;
  for (const Prompt& prompt : Prompts()) {
    const std::vector<float> logits = Logits(prompt.ids);
    const bool all = expected.contains(prompt.name);
    const std::vector<float>& rows = expected.at(all ? prompt.name : prompt.name + ".last");
    const std::span<const float> actual = std::span(logits).subspan(logits.size() - rows.size());
    ASSERT_EQ(rows.size(), all ? logits.size() : vocab_);
    for (size_t row = 0; row < rows.size() / vocab_; ++row) {
      ExpectRowClose(actual.subspan(row * vocab_, vocab_),
                     std::span(rows).subspan(row * vocab_, vocab_), GetParam(),
                     prompt.name + " row " + std::to_string(row));
      ++compared;
    }
  }
  EXPECT_EQ(compared, 122u);
}

TEST_P(TinymixGolden, TopLogitsAndLogLikelihoodsOfEveryPosition) {
  const Json golden = ReadJsonFile(Golden("logits_top20.json").string());
  const std::vector<Prompt> prompts = Prompts();
  ASSERT_EQ(golden.size(), prompts.size());
  std::vector<ScoredSequence> sequences;
  for (const Prompt& prompt : prompts) sequences.push_back({prompt.ids});
  const auto scores = ScoreSequences(*model_, sequences);

  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<float> logits = Logits(prompts[i].ids);
    const Json& positions = golden[i]["positions"];
    ASSERT_EQ(golden[i]["name"], prompts[i].name);
    ASSERT_EQ(positions.size(), prompts[i].ids.size());
    for (size_t p = 0; p < positions.size(); ++p) {
      const std::span<const float> row = std::span(logits).subspan(p * vocab_, vocab_);
      const auto ids = positions[p]["top_ids"].get<std::vector<size_t>>();
      const auto values = positions[p]["top_logits"].get<std::vector<float>>();
      std::vector<float> actual;
      for (const size_t id : ids) actual.push_back(row[id]);
      ExpectRowClose(actual, values, GetParam(), prompts[i].name + " " + std::to_string(p));
      double total = 0;
      for (const float logit : row) total += std::exp(static_cast<double>(logit));
      const double allowed = GetParam().relative > 0 ? 2e-2 : 5e-4;
      EXPECT_NEAR(std::log(total), positions[p]["logsumexp"].get<double>(), allowed);
    }
    double nll = 0;
    for (const TokenPrediction& score : scores[i]) nll -= score.log_probability;
    EXPECT_NEAR(nll, golden[i]["prompt_nll"].get<double>(),
                (GetParam().relative > 0 ? 1e-3 : 1e-5) * nll + 1e-12)
        << prompts[i].name;
  }
}

// Keeps what every layer routed.
class RoutingRecorder : public LayerObserver {
 public:
  explicit RoutingRecorder(Backend& backend) : backend_(backend) {}
  void ExpertInput(const Activation& /*h*/, const Routing& routing) override {
    backend_.Download(routing, layers.emplace_back());
  }
  std::vector<RoutingTable> layers;

 private:
  Backend& backend_;
};

TEST_P(TinymixGolden, RouterChoosesTheSameExperts) {
  const Json golden = ReadJsonFile(Golden("router.json").string());
  const double allowed = GetParam().relative > 0 ? 1e-2 : 5e-4;
  size_t compared = 0;
  for (const Json& entry : golden) {
    for (const Prompt& prompt : Prompts()) {
      if (entry["name"] != prompt.name) continue;
      std::vector<int32_t> blocks(8);
      std::iota(blocks.begin(), blocks.end(), 0);
      BatchBuilder builder;
      builder.Add(prompt.ids, 0, blocks, static_cast<int64_t>(prompt.ids.size()));
      const auto kv = model_->MakeKvPages(8);
      std::vector<float> none;
      RoutingRecorder recorder(*backend_);
      model_->Forward(builder.Take(), *kv, none, &recorder);

      const Json& layers = entry["layers"];
      ASSERT_EQ(recorder.layers.size(), layers.size());
      for (size_t layer = 0; layer < layers.size(); ++layer) {
        const RoutingTable& routing = recorder.layers[layer];
        for (size_t t = 0; t < prompt.ids.size(); ++t) {
          for (size_t k = 0; k < 2; ++k) {
            EXPECT_EQ(routing.experts[t * 2 + k], layers[layer]["experts"][t][k].get<int32_t>());
            EXPECT_NEAR(routing.weights[t * 2 + k], layers[layer]["weights"][t][k].get<double>(),
                        allowed);
            ++compared;
          }
          for (size_t e = 0; e < 8; ++e) {
            EXPECT_NEAR(routing.logits[t * 8 + e], layers[layer]["logits"][t][e].get<double>(),
                        allowed);
          }
        }
      }
    }
  }
  EXPECT_EQ(compared, (8u + 78u) * 4u * 2u);
}

// All twelve prompts decode together over the paged cache, so that this is batched decoding as
// well.
TEST_P(TinymixGolden, GreedyTokensEqualUpToAnExcusedStep) {
  const Json golden = ReadJsonFile(Golden("greedy_64.json").string());
  const std::vector<Prompt> prompts = Prompts();
  ASSERT_EQ(golden.size(), prompts.size());
  constexpr int32_t kBlocksEach = 24;
  const auto kv = model_->MakeKvPages(kBlocksEach * static_cast<int64_t>(prompts.size()));
  std::vector<std::vector<int32_t>> fed;
  std::vector<std::vector<int32_t>> generated(prompts.size());
  for (const Prompt& prompt : prompts) fed.push_back(prompt.ids);
  std::vector<int64_t> positions(prompts.size(), 0);

  const auto step = [&](size_t first, size_t last) {
    BatchBuilder builder;
    for (size_t i = first; i < last; ++i) {
      std::vector<int32_t> blocks(kBlocksEach);
      std::iota(blocks.begin(), blocks.end(), static_cast<int32_t>(i) * kBlocksEach);
      builder.Add(fed[i], positions[i], blocks, static_cast<int64_t>(fed[i].size()) - 1);
      positions[i] += static_cast<int64_t>(fed[i].size());
    }
    std::vector<float> logits;
    model_->Forward(builder.Take(), *kv, logits);
    for (size_t i = first; i < last; ++i) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>((i - first) * vocab_);
      const auto best = std::max_element(row, row + static_cast<std::ptrdiff_t>(vocab_));
      generated[i].push_back(static_cast<int32_t>(best - row));
      fed[i] = {generated[i].back()};
    }
  };
  for (size_t i = 0; i < prompts.size(); ++i) step(i, i + 1);
  for (int i = 1; i < 64; ++i) step(0, prompts.size());

  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto expected = golden[i]["generated_ids"].get<std::vector<int32_t>>();
    const auto difference = std::mismatch(expected.begin(), expected.end(), generated[i].begin());
    if (difference.first == expected.end()) continue;
    const size_t at = static_cast<size_t>(difference.first - expected.begin());
    EXPECT_LT(golden[i]["margin"][at].get<double>(), GetParam().margin)
        << prompts[i].name << " differs at step " << at;
  }
}

}  // namespace
}  // namespace nibble
