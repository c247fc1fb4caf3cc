#include "quantize/passes/probe.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/make_backend.h"
#include "model/scoring.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using nibble::testing::RandomTokens;
using nibble::testing::TemporaryDirectory;

class ProbeTest : public ::testing::Test {
 protected:
  ProbeTest() {
    nibble::testing::WriteRandomMixtral({}, directory_.path());
    checkpoint_ = std::make_unique<Checkpoint>(directory_.path());
    backend_ = MakeBackend("cpu", {.threads = 2, .instruction_set = {}});
    sequences_ = {RandomTokens(30, 101, 1), RandomTokens(17, 101, 2)};
    batches_ = CutIntoBatches(sequences_, 64);
    spec_ = SpecOf(checkpoint_->config());
    workspace_ = std::make_unique<Workspace>(*backend_, spec_, 64, 8);
    outer_ = LoadOuter(*checkpoint_, *backend_);
  }

  Probe MakeProbe() { return Probe(spec_, batches_, *backend_, *workspace_, outer_); }

  TemporaryDirectory directory_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::vector<int32_t>> sequences_;
  TokenBatches batches_;
  ModelSpec spec_;
  std::unique_ptr<Workspace> workspace_;
  OuterWeights outer_;
};

TEST_F(ProbeTest, ComputesWhatTheWholeModelComputesHoweverExpertsAreGrouped) {
  Model model(*checkpoint_, *backend_, 64);
  std::vector<ScoredSequence> scored;
  for (const auto& tokens : sequences_) scored.push_back({tokens});
  const Perplexity expected = PerplexityOf(ScoreSequences(model, scored));
  for (const int64_t group : {1, 2, 5}) {
    Probe probe = MakeProbe();
    probe.Embed();
    for (int64_t layer = 0; layer < 2; ++layer) {
      const LayerWeights weights = LoadLayer(*checkpoint_, layer, *backend_);
      probe.RunAttention(spec_.layer(layer), weights);
      for (int64_t first = 0; first < 5; first += group) {
        probe.RunExperts(weights, first, std::min<int64_t>(first + group, 5));
      }
    }
    const ProbeScore score = probe.Score(probe.original());
    EXPECT_EQ(score.tokens, expected.tokens);
    EXPECT_NEAR(score.nll, expected.nll, 1e-5 * expected.nll);
    EXPECT_NEAR(score.perplexity(), expected.perplexity(), 1e-4 * expected.perplexity());
  }
}

TEST_F(ProbeTest, DivergenceIsZeroFromItselfAndGrowsWithTheDifference) {
  Probe probe = MakeProbe();
  probe.Embed();
  EXPECT_EQ(probe.num_tokens(), 47);
  HiddenStates other = HiddenStates::InMemory(47, 48);
  std::vector<float> rows(47 * 48);
  probe.original().Load(0, rows);
  other.Store(0, rows);
  const Divergence none = probe.Compare(other);
  EXPECT_EQ(none.positions, 47);
  EXPECT_NEAR(none.kl, 0, 1e-9);
  EXPECT_EQ(none.top1_agreement, 1);
  EXPECT_EQ(none.activation_error, 0);
  double last = 0;
  for (const float noise : {0.01f, 0.1f, 1.0f}) {
    std::vector<float> moved = rows;
    for (size_t i = 0; i < moved.size(); ++i) {
      moved[i] *= 1 + noise * std::sin(static_cast<float>(i));
    }
    other.Store(0, moved);
    const Divergence some = probe.Compare(other);
    EXPECT_GT(some.kl, last);
    EXPECT_NEAR(some.activation_error, 0.5 * std::pow(static_cast<double>(noise), 2),
                0.1 * noise * noise);
    last = some.kl;
  }
  rows[5] = NAN;
  other.Store(0, rows);
  EXPECT_THROW(probe.Compare(other), Error);
}

TEST_F(ProbeTest, WithoutTokensThereIsNothingToSay) {
  batches_ = {};
  Probe probe = MakeProbe();
  probe.Embed();
  const HiddenStates nothing = HiddenStates::InMemory(0, 48);
  EXPECT_EQ(probe.Compare(nothing).positions, 0);
  EXPECT_EQ(probe.Score(nothing).perplexity(), 0);
}

}  // namespace
}  // namespace nibble
