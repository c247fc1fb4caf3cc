#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "nibble/error.h"

namespace nibble {
namespace {

int32_t Draw(const SamplingParams& params, std::vector<float> logits, uint64_t seed,
             std::vector<int32_t> prompt = {}, std::vector<int32_t> output = {}) {
  Sampler sampler;
  return sampler.Sample(params, {prompt, output, {}, seed}, logits).token;
}

// How often each token comes out over many seeds.
std::map<int32_t, double> Frequencies(const SamplingParams& params,
                                      const std::vector<float>& logits) {
  constexpr int kDraws = 20000;
  std::map<int32_t, double> result;
  for (uint64_t seed = 0; seed < kDraws; ++seed) result[Draw(params, logits, seed)] += 1.0 / kDraws;
  return result;
}

std::vector<float> LogsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(Sampler, GreedyTakesTheLowestIdOfATie) {
  SamplingParams params{.temperature = 0};
  EXPECT_EQ(Draw(params, {1, 3, 3, 2}, 7), 1);
}

TEST(Sampler, GreedyIgnoresTheFilters) {
  SamplingParams params{.temperature = 0, .top_p = 0.01, .top_k = 1, .min_p = 1};
  EXPECT_EQ(Draw(params, {1, 2, 5, 4}, 7), 2);
}

TEST(Sampler, DrawsWithTheModelsOwnFrequencies) {
  const std::vector<double> p = {0.5, 0.25, 0.15, 0.1};
  const auto frequencies = Frequencies({}, LogsOf(p));
  for (size_t i = 0; i < p.size(); ++i) {
    // Four standard deviations of a binomial share.
    EXPECT_NEAR(frequencies.at(static_cast<int32_t>(i)), p[i],
                4 * std::sqrt(p[i] * (1 - p[i]) / 20000));
  }
}

TEST(Sampler, TemperatureSharpens) {
  SamplingParams params{.temperature = 0.5};
  const auto frequencies = Frequencies(params, LogsOf({0.6, 0.4}));
  EXPECT_NEAR(frequencies.at(0), 0.36 / 0.52, 0.015);
}

TEST(Sampler, TopKKeepsTiesAtTheBorder) {
  SamplingParams params{.top_k = 2};
  const auto frequencies = Frequencies(params, LogsOf({0.1, 0.4, 0.2, 0.2, 0.1}));
  EXPECT_EQ(frequencies.size(), 3u);
  EXPECT_NEAR(frequencies.at(1), 0.5, 0.015);
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  SamplingParams params{.top_p = 0.7};
  const auto frequencies = Frequencies(params, LogsOf({0.1, 0.5, 0.25, 0.15}));
  EXPECT_EQ(frequencies.size(), 2u);
  EXPECT_TRUE(frequencies.contains(1) && frequencies.contains(2));
}

TEST(Sampler, TopPAlwaysKeepsTheMostLikely) {
  SamplingParams params{.top_p = 1e-9};
  EXPECT_EQ(Frequencies(params, LogsOf({0.3, 0.4, 0.3})).size(), 1u);
}

TEST(Sampler, MinPIsRelativeToTheMostLikely) {
  SamplingParams params{.min_p = 0.45};
  const auto frequencies = Frequencies(params, LogsOf({0.5, 0.25, 0.2, 0.05}));
  EXPECT_EQ(frequencies.size(), 2u);
}

TEST(Sampler, PenaltiesLookWhereVllmLooks) {
  const std::vector<float> logits = {2.0f, 2.1f, -1.0f};
  // Presence and frequency see the output only, repetition the prompt too.
  EXPECT_EQ(Draw({.temperature = 0, .presence_penalty = 1}, logits, 0, {1}, {}), 1);
  EXPECT_EQ(Draw({.temperature = 0, .presence_penalty = 1}, logits, 0, {}, {1}), 0);
  EXPECT_EQ(Draw({.temperature = 0, .frequency_penalty = 0.04}, logits, 0, {}, {1, 1}), 1);
  EXPECT_EQ(Draw({.temperature = 0, .frequency_penalty = 0.04}, logits, 0, {}, {1, 1, 1}), 0);
  EXPECT_EQ(Draw({.temperature = 0, .repetition_penalty = 1.2}, logits, 0, {1}, {}), 0);
}

TEST(Sampler, RepetitionPenaltyPushesNegativeLogitsDown) {
  EXPECT_EQ(Draw({.temperature = 0, .repetition_penalty = 2}, {-1.0f, -1.5f}, 0, {0}, {}), 1);
}

TEST(Sampler, ReportsTheUnpenalisedLogProbability) {
  Sampler sampler;
  std::vector<float> logits = LogsOf({0.7, 0.2, 0.1});
  const std::vector<int32_t> output = {0};
  const Sampled sampled =
      sampler.Sample({.temperature = 0, .repetition_penalty = 3}, {{}, output, {}, 0}, logits);
  EXPECT_NEAR(std::exp(sampled.log_probability), sampled.token == 0 ? 0.7 : 0.2, 1e-6);
}

TEST(Sampler, MinTokensMasksTheEndUntilReached) {
  Sampler sampler;
  const std::vector<int32_t> end = {1};
  SamplingParams params{.temperature = 0, .min_tokens = 1};
  std::vector<float> logits = {1, 5, 2};
  EXPECT_EQ(sampler.Sample(params, {{}, {}, end, 0}, logits).token, 2);
  const std::vector<int32_t> output = {2};
  logits = {1, 5, 2};
  EXPECT_EQ(sampler.Sample(params, {{}, output, end, 0}, logits).token, 1);
}

TEST(Sampler, DependsOnSeedAndPositionOnly) {
  const std::vector<float> logits(1000, 0.0f);
  EXPECT_EQ(Draw({}, logits, 5), Draw({}, logits, 5));
  EXPECT_NE(Draw({}, logits, 5), Draw({}, logits, 6));
  EXPECT_NE(Draw({}, logits, 5), Draw({}, logits, 5, {}, {3}));
  EXPECT_EQ(Draw({}, logits, 5, {9, 9}, {3}), Draw({}, logits, 5, {}, {4}));
}

TEST(CheckSamplingParams, NamesTheFieldItRefuses) {
  const std::pair<SamplingParams, const char*> cases[] = {
      {{.temperature = -1}, "temperature"},
      {{.top_p = 0}, "top_p"},
      {{.top_p = 1.1}, "top_p"},
      {{.top_k = -2}, "top_k"},
      {{.min_p = 2}, "min_p"},
      {{.repetition_penalty = 0}, "repetition_penalty"},
      {{.presence_penalty = 3}, "presence_penalty"},
      {{.frequency_penalty = -3}, "frequency_penalty"},
      {{.max_tokens = 0}, "max_tokens"},
      {{.max_tokens = 4, .min_tokens = 5}, "min_tokens"},
      {{.stop = {""}}, "stop"},
      {{.stop_token_ids = {100}}, "stop_token_ids"},
  };
  for (const auto& [params, field] : cases) {
    try {
      CheckSamplingParams(params, 100);
      ADD_FAILURE() << field << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_EQ(std::string(error.what()).rfind(field, 0), 0u) << error.what();
    }
  }
}

}  // namespace
}  // namespace nibble
