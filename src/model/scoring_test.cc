#include "model/scoring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <numeric>

#include "backend/make_backend.h"
#include "nibble/error.h"
#include "tests/support/random_mixtral.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::RandomMixtral;
using testing::RandomTokens;
using testing::TemporaryDirectory;

// Sequences of which all but the first token is predicted.
std::vector<ScoredSequence> Whole(const std::vector<std::vector<int32_t>>& sequences) {
  std::vector<ScoredSequence> scored;
  for (const auto& tokens : sequences) scored.push_back({tokens});
  return scored;
}

class Scoring : public ::testing::Test {
 protected:
  Scoring() { testing::WriteRandomMixtral({}, directory_.path()); }

  std::unique_ptr<Model> Load(int64_t max_tokens, const std::filesystem::path& path = {}) {
    const Checkpoint checkpoint(path.empty() ? directory_.path() : path);
    return std::make_unique<Model>(checkpoint, *backend_, max_tokens);
  }

  // The obvious way: all logits of the sequence, then the definition.
  static std::vector<TokenPrediction> ScoreSlowly(Model& model,
                                                  const std::vector<int32_t>& sequence) {
    const size_t vocab = static_cast<size_t>(model.spec().vocab_size);
    std::vector<float> logits;
    SequenceLogits(model, sequence, [&](int64_t first, std::span<const float> run) {
      EXPECT_EQ(static_cast<size_t>(first) * vocab, logits.size());
      logits.insert(logits.end(), run.begin(), run.end());
    });
    std::vector<TokenPrediction> scores;
    for (size_t i = 0; i + 1 < sequence.size(); ++i) {
      const size_t token = static_cast<size_t>(sequence[i + 1]);
      double total = 0;
      bool is_greedy = true;
      for (size_t id = 0; id < vocab; ++id) {
        total += std::exp(static_cast<double>(logits[i * vocab + id]));
        if (logits[i * vocab + id] > logits[i * vocab + token]) is_greedy = false;
      }
      scores.push_back(
          {static_cast<double>(logits[i * vocab + token]) - std::log(total), is_greedy});
    }
    return scores;
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Backend> backend_ = MakeBackend("reference");
};

TEST_F(Scoring, EqualsTheDefinitionHoweverTheStepsAreCut) {
  std::vector<std::vector<int32_t>> sequences;
  for (const int64_t length : {5, 40, 2, 1, 90, 17, 33, 2, 16}) {
    sequences.push_back(RandomTokens(length, 101, static_cast<uint64_t>(length)));
  }
  for (const int64_t max_tokens : {7, 32, 64, 500}) {
    const auto model = Load(max_tokens);
    int64_t tokens_run = 0;
    const auto scores =
        ScoreSequences(*model, Whole(sequences), [&](int64_t tokens) { tokens_run += tokens; });
    ASSERT_EQ(scores.size(), sequences.size());
    EXPECT_EQ(tokens_run, 4 + 39 + 1 + 0 + 89 + 16 + 32 + 1 + 15);
    for (size_t i = 0; i < sequences.size(); ++i) {
      const auto expected = ScoreSlowly(*model, sequences[i]);
      ASSERT_EQ(scores[i].size(), expected.size());
      for (size_t j = 0; j < expected.size(); ++j) {
        EXPECT_NEAR(scores[i][j].log_probability, expected[j].log_probability, 1e-12);
        EXPECT_EQ(scores[i][j].is_greedy, expected[j].is_greedy);
      }
    }
  }
}

TEST_F(Scoring, ScoresOnlyFromTheFirstTokenAskedFor) {
  const auto model = Load(24);
  const std::vector<std::vector<int32_t>> sequences = {RandomTokens(10, 101, 1),
                                                       RandomTokens(60, 101, 2)};
  const auto all = ScoreSequences(*model, Whole(sequences));
  const std::vector<ScoredSequence> parts = {{sequences[0], 8}, {sequences[1], 37}};
  const auto some = ScoreSequences(*model, parts);
  ASSERT_EQ(some[0].size(), 2u);
  ASSERT_EQ(some[1].size(), 23u);
  for (size_t i = 0; i < sequences.size(); ++i) {
    const size_t skipped = all[i].size() - some[i].size();
    for (size_t j = 0; j < some[i].size(); ++j) {
      EXPECT_EQ(some[i][j].log_probability, all[i][skipped + j].log_probability);
    }
  }
}

TEST_F(Scoring, GreedyContinuationIsGreedy) {
  const auto model = Load(64);
  std::vector<int32_t> sequence = {1, 50};
  for (int step = 0; step < 6; ++step) {
    std::vector<float> last;
    SequenceLogits(*model, sequence, [&](int64_t, std::span<const float> run) {
      last.assign(run.end() - 101, run.end());
    });
    sequence.push_back(
        static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin()));
  }
  const std::vector<std::vector<int32_t>> sequences = {sequence};
  const auto scores = ScoreSequences(*model, Whole(sequences)).front();
  for (size_t i = 1; i < scores.size(); ++i) EXPECT_TRUE(scores[i].is_greedy);
}

TEST_F(Scoring, RefusesEmptyAndOverlongSequencesByIndex) {
  const auto model = Load(64);
  const auto error_of = [&](const std::vector<std::vector<int32_t>>& sequences) -> std::string {
    try {
      ScoreSequences(*model, Whole(sequences));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(error_of({{1, 2}, {}}), HasSubstr("sequence 1 has no tokens"));
  EXPECT_THAT(error_of({RandomTokens(513, 101, 1)}), HasSubstr("sequence 0 has 513 tokens"));
  EXPECT_EQ(error_of({RandomTokens(512, 101, 1)}), "");
}

TEST_F(Scoring, AModelDoesNotDifferFromItself) {
  const auto a = Load(64);
  const auto b = Load(64);
  const std::vector<std::vector<int32_t>> sequences = {RandomTokens(30, 101, 1)};
  const Comparison same = CompareSequences(*a, *b, Whole(sequences));
  EXPECT_EQ(same.tokens, 29);
  EXPECT_EQ(same.nll, same.baseline_nll);
  EXPECT_NEAR(same.mean_kl, 0, 1e-15);
  EXPECT_EQ(same.top1_agreement, 1);
  EXPECT_EQ(same.top1_standard_error, 0);
  EXPECT_EQ(same.log_ratio, 0);
}

TEST_F(Scoring, ComparisonEqualsTheDefinition) {
  TemporaryDirectory other;
  testing::WriteRandomMixtral(RandomMixtral{.seed = 2}, other.path());
  const auto baseline = Load(20);
  const auto model = Load(33, other.path());
  const std::vector<std::vector<int32_t>> sequences = {RandomTokens(30, 101, 1),
                                                       RandomTokens(12, 101, 2)};
  const Comparison comparison = CompareSequences(*baseline, *model, Whole(sequences));

  std::vector<double> kls;
  double nll = 0;
  double baseline_nll = 0;
  int same_top = 0;
  for (const auto& sequence : sequences) {
    std::vector<float> p_logits;
    std::vector<float> q_logits;
    const auto append_to = [](std::vector<float>& logits) {
      return [&logits](int64_t, std::span<const float> run) {
        logits.insert(logits.end(), run.begin(), run.end());
      };
    };
    SequenceLogits(*baseline, sequence, append_to(p_logits));
    SequenceLogits(*model, sequence, append_to(q_logits));
    for (size_t i = 0; i + 1 < sequence.size(); ++i) {
      const float* p = &p_logits[i * 101];
      const float* q = &q_logits[i * 101];
      double p_total = 0;
      double q_total = 0;
      for (size_t id = 0; id < 101; ++id) {
        p_total += std::exp(static_cast<double>(p[id]));
        q_total += std::exp(static_cast<double>(q[id]));
      }
      double kl = 0;
      for (size_t id = 0; id < 101; ++id) {
        const double a = std::exp(static_cast<double>(p[id])) / p_total;
        const double b = std::exp(static_cast<double>(q[id])) / q_total;
        kl += a * std::log(a / b);
      }
      kls.push_back(kl);
      same_top += std::max_element(p, p + 101) - p == std::max_element(q, q + 101) - q;
      const size_t next = static_cast<size_t>(sequence[i + 1]);
      nll -= static_cast<double>(q[next]) - std::log(q_total);
      baseline_nll -= static_cast<double>(p[next]) - std::log(p_total);
    }
  }
  const double n = static_cast<double>(kls.size());
  const double mean = std::accumulate(kls.begin(), kls.end(), 0.0) / n;
  double squares = 0;
  for (const double kl : kls) squares += (kl - mean) * (kl - mean);
  EXPECT_EQ(comparison.tokens, 40);
  EXPECT_NEAR(comparison.nll, nll, 1e-9);
  EXPECT_NEAR(comparison.baseline_nll, baseline_nll, 1e-9);
  EXPECT_NEAR(comparison.mean_kl, mean, 1e-12);
  EXPECT_NEAR(comparison.kl_standard_error, std::sqrt(squares / (n - 1) / n), 1e-12);
  EXPECT_NEAR(comparison.max_kl, *std::max_element(kls.begin(), kls.end()), 1e-12);
  const double share = same_top / n;
  EXPECT_NEAR(comparison.top1_agreement, share, 1e-12);
  EXPECT_NEAR(comparison.top1_standard_error, std::sqrt(share * (1 - share) / (n - 1)), 1e-12);
  EXPECT_NEAR(comparison.log_ratio, (nll - baseline_nll) / n, 1e-12);
}

TEST_F(Scoring, ModelsOfDifferentVocabularyAreNotCompared) {
  TemporaryDirectory other;
  testing::WriteRandomMixtral(RandomMixtral{.vocab_size = 99}, other.path());
  const auto baseline = Load(20);
  const auto model = Load(20, other.path());
  const std::vector<std::vector<int32_t>> sequences = {{1, 2, 3}};
  EXPECT_THROW(CompareSequences(*baseline, *model, Whole(sequences)), Error);
}

std::vector<int32_t> Iota(int32_t count) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), 100);
  return ids;
}

using Windows = std::vector<std::pair<std::vector<int32_t>, int64_t>>;  // tokens, first scored

Windows Cut(std::span<const int32_t> ids, int32_t bos, int64_t window, int64_t stride) {
  Windows windows;
  for (const ScoredSequence& sequence : MakeWindows(ids, bos, window, stride)) {
    windows.emplace_back(sequence.tokens, sequence.first_scored);
  }
  return windows;
}

TEST(MakeWindows, WithoutOverlapChunksStandAloneBehindBos) {
  EXPECT_EQ(Cut(Iota(7), 1, 4, 0),
            (Windows{{{1, 100, 101, 102}, 1}, {{1, 103, 104, 105}, 1}, {{1, 106}, 1}}));
}

TEST(MakeWindows, WithAStrideEveryIdIsPredictedOnceBehindAFullContext) {
  EXPECT_EQ(Cut(Iota(9), 1, 5, 2), (Windows{{{1, 100, 101, 102, 103}, 1},
                                            {{1, 102, 103, 104, 105}, 3},
                                            {{1, 104, 105, 106, 107}, 3},
                                            {{1, 106, 107, 108}, 3}}));
}

TEST(MakeWindows, PredictsEveryIdExactlyOnce) {
  for (const int32_t bos : {-1, 1}) {
    for (int32_t count = 2; count < 30; ++count) {
      for (int64_t window = 2; window < 9; ++window) {
        for (int64_t stride = 0; stride < window; ++stride) {
          std::vector<int32_t> predicted;
          for (const auto& [tokens, first] : Cut(Iota(count), bos, window, stride)) {
            ASSERT_LE(tokens.size(), static_cast<size_t>(window));
            ASSERT_GE(first, 1);
            predicted.insert(predicted.end(), tokens.begin() + first, tokens.end());
          }
          std::vector<int32_t> expected = Iota(count);
          if (bos < 0) expected.erase(expected.begin());
          ASSERT_EQ(predicted, expected) << bos << " " << count << " " << window << " " << stride;
        }
      }
    }
  }
}

TEST(MakeWindows, RefusesWindowsAndStridesThatCannotBe) {
  const auto ids = Iota(5);
  EXPECT_THROW(MakeWindows(ids, 1, 1, 0), Error);
  EXPECT_THROW(MakeWindows(ids, 1, 4, 4), Error);
  EXPECT_THROW(MakeWindows(ids, 1, 4, -1), Error);
  EXPECT_THROW(MakeWindows({}, 1, 4, 0), Error);
}

}  // namespace
}  // namespace nibble
