#include "backend/host/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/random.h"

namespace nibble {
namespace {

int32_t Draw(const SamplingParams& params, std::vector<float> logits, uint64_t seed,
             std::vector<int32_t> prompt = {}, std::vector<int32_t> output = {}) {
  Sampler sampler;
  return sampler.Sample({&params, prompt, output, {}, seed}, logits).token;
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
  const SamplingParams params{.temperature = 0, .repetition_penalty = 3};
  const Sampled sampled = sampler.Sample({&params, {}, output, {}, 0}, logits);
  EXPECT_NEAR(std::exp(sampled.log_probability), sampled.token == 0 ? 0.7 : 0.2, 1e-6);
}

TEST(Sampler, MinTokensMasksTheEndUntilReached) {
  Sampler sampler;
  const std::vector<int32_t> end = {1};
  SamplingParams params{.temperature = 0, .min_tokens = 1};
  std::vector<float> logits = {1, 5, 2};
  EXPECT_EQ(sampler.Sample({&params, {}, {}, end, 0}, logits).token, 2);
  const std::vector<int32_t> output = {2};
  logits = {1, 5, 2};
  EXPECT_EQ(sampler.Sample({&params, {}, output, end, 0}, logits).token, 1);
}

TEST(Sampler, DependsOnSeedAndPositionOnly) {
  const std::vector<float> logits(1000, 0.0f);
  EXPECT_EQ(Draw({}, logits, 5), Draw({}, logits, 5));
  EXPECT_NE(Draw({}, logits, 5), Draw({}, logits, 6));
  EXPECT_NE(Draw({}, logits, 5), Draw({}, logits, 5, {}, {3}));
  EXPECT_EQ(Draw({}, logits, 5, {9, 9}, {3}), Draw({}, logits, 5, {}, {4}));
}

// The definition, step by step, on fully sorted lists.
int32_t DrawSlowly(const SamplingParams& params, const std::vector<float>& logits, uint64_t seed) {
  const size_t vocab = logits.size();
  std::vector<size_t> order(vocab);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  std::vector<double> p(vocab);
  const double largest = static_cast<double>(logits[order[0]]);
  const auto normalise = [&] {
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& value : p) value /= total;
  };
  for (size_t i = 0; i < vocab; ++i) {
    p[i] = std::exp((static_cast<double>(logits[i]) - largest) / params.temperature);
  }
  normalise();
  const double floor = params.min_p * p[order[0]];
  for (double& value : p) value = value < floor ? 0 : value;
  normalise();
  if (params.top_k > 0 && params.top_k < static_cast<int64_t>(vocab)) {
    const double kth = p[order[params.top_k - 1]];
    for (double& value : p) value = value < kth ? 0 : value;
    normalise();
  }
  double above = 0;
  for (const size_t id : order) {
    const double own = p[id];
    if (above >= params.top_p) p[id] = 0;
    above += own;
  }
  normalise();
  const auto block = Philox4x32({static_cast<uint32_t>(seed), 0}, {0, 0, 0, 0});
  const double u =
      (static_cast<double>((uint64_t{block[0]} << 32 | block[1]) >> 11) + 0.5) * 0x1p-53;
  double passed = 0;
  for (size_t id = 0; id < vocab; ++id) {
    passed += p[id];
    if (p[id] > 0 && passed > u) return static_cast<int32_t>(id);
  }
  return -1;
}

TEST(Sampler, EqualsTheDefinitionOverLargeVocabularies) {
  PythonRandom random(3);
  for (uint64_t round = 0; round < 200; ++round) {
    std::vector<float> logits(1 + random.NextBelow(5000));
    const double spread = round % 3 == 0 ? 0.1 : 8.0;  // flat ones keep thousands of tokens
    for (float& logit : logits) logit = static_cast<float>(spread * random.NextDouble());
    SamplingParams params;
    params.temperature = 0.5 + random.NextDouble();
    if (random.NextBelow(2) == 0) params.top_p = 0.05 + 0.94 * random.NextDouble();
    if (random.NextBelow(2) == 0) params.top_k = static_cast<int64_t>(1 + random.NextBelow(900));
    if (random.NextBelow(3) == 0) params.min_p = 0.3 * random.NextDouble();
    EXPECT_EQ(Draw(params, logits, round), DrawSlowly(params, logits, round)) << round;
  }
}

}  // namespace
}  // namespace nibble
