// Texts scored by the demonstration model against what transformers and lm_eval recorded.
// Protocols: golden/tinymix/README.md of the reference data. The whole of WikiText-2 is a test of
// the program (tests/e2e); here stand its first windows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <sstream>

#include "backend/make_backend.h"
#include "base/file.h"
#include "base/json.h"
#include "model/scoring.h"
#include "tests/support/reference_data.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {

// A backend under test and how much of a text it has time for.
struct Amount {
  const char* backend;
  size_t windows;
  size_t documents;
};

void PrintTo(const Amount& amount, std::ostream* out) { *out << amount.backend; }

class TinymixTexts : public ::testing::TestWithParam<Amount> {
 protected:
  void SetUp() override {
    NIBBLE_REQUIRE_REFERENCE("models/tinymix/config.json");
    NIBBLE_REQUIRE_REFERENCE("golden/tinymix/perplexity.json");
    const auto directory = testing::ReferenceData() / "models/tinymix";
    backend_ = MakeBackend(GetParam().backend);
    model_ = std::make_unique<Model>(Checkpoint(directory), *backend_, 1024);
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::Load(directory));
  }

  static Json Golden(const char* name) {
    return ReadJsonFile((testing::ReferenceData() / "golden/tinymix" / name).string());
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

INSTANTIATE_TEST_SUITE_P(Backends, TinymixTexts,
                         ::testing::Values(Amount{"reference", 3, 6}, Amount{"cpu", 24, 100}),
                         [](const auto& test) { return std::string(test.param.backend); });

TEST_P(TinymixTexts, WindowsOfWikiTextHaveTheRecordedLikelihoods) {
  const Json golden = Golden("perplexity.json");
  const std::string text =
      ReadTextFile(testing::ReferenceData() / golden["file"].get<std::string>());
  const std::vector<int32_t> ids = tokenizer_->Encode(text, false);
  ASSERT_EQ(static_cast<int64_t>(ids.size()), golden["tokens"].get<int64_t>());
  std::vector<ScoredSequence> windows = MakeWindows(ids, tokenizer_->bos_id().value(), 256, 0);
  const Json& recorded = golden["window_nll"];
  ASSERT_EQ(windows.size(), recorded.size());

  windows.resize(GetParam().windows);
  const auto scores = ScoreSequences(*model_, windows);
  for (size_t w = 0; w < windows.size(); ++w) {
    EXPECT_EQ(scores[w].size(), 255u);
    double nll = 0;
    for (const TokenPrediction& score : scores[w]) nll -= score.log_probability;
    const double expected = recorded[w].get<double>();
    EXPECT_NEAR(nll, expected, 1e-4 * expected) << "window " << w;
  }
}

// lm_eval's rule: context and continuation are encoded together, the continuation begins where the
// tokens of the context alone end.
TEST_P(TinymixTexts, LambadaContinuationsHaveTheRecordedLikelihoods) {
  const Json golden = Golden("lambada.json");
  std::istringstream lines(
      ReadTextFile(testing::ReferenceData() / golden["file"].get<std::string>()));
  std::vector<ScoredSequence> sequences;
  for (std::string line; sequences.size() < GetParam().documents && std::getline(lines, line);) {
    const std::string text = ParseJson(line, "lambada")["text"].get<std::string>();
    const std::string context = text.substr(0, text.rfind(' '));
    ASSERT_FALSE(context.ends_with(' ') || context.ends_with('\n'));
    sequences.push_back({tokenizer_->Encode(text, true),
                         static_cast<int64_t>(tokenizer_->Encode(context, true).size())});
  }
  const auto scores = ScoreSequences(*model_, sequences);
  for (size_t i = 0; i < sequences.size(); ++i) {
    double sum = 0;
    bool greedy = true;
    for (const TokenPrediction& score : scores[i]) {
      sum += score.log_probability;
      greedy = greedy && score.is_greedy;
    }
    const double expected = golden["loglikelihood"][i].get<double>();
    EXPECT_NEAR(sum, expected, 2e-3 + 1e-5 * std::fabs(expected)) << "document " << i;
    EXPECT_EQ(greedy, golden["greedy"][i].get<int>() == 1) << "document " << i;
  }
}

}  // namespace
}  // namespace nibble
