#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

namespace nibble {
namespace {

std::vector<int32_t> Prompt(int64_t length, int32_t first = 0) {
  std::vector<int32_t> tokens(length);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// The plan as "id:first+count" words, with a '!' where a token is wanted.
std::vector<std::string> PlanOf(Scheduler& scheduler) {
  std::vector<std::string> words;
  for (const Chunk& chunk : scheduler.Plan()) {
    words.push_back(std::to_string(chunk.sequence) + ":" + std::to_string(chunk.first) + "+" +
                    std::to_string(chunk.count) + (chunk.wants_token ? "!" : ""));
  }
  return words;
}

using ::testing::ElementsAre;

TEST(Scheduler, PutsDecodesBeforePromptsInProgressBeforeNewOnes) {
  BlockPool pool(100);
  Scheduler scheduler({.max_step_tokens = 10, .max_running = 4, .block_size = 4}, pool);
  scheduler.Add(7, Prompt(12));
  scheduler.Add(8, Prompt(3));
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("7:0+10"));
  scheduler.Commit({});
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("7:10+2!", "8:0+3!"));
  scheduler.Commit(std::vector<int32_t>{1, 2});
  scheduler.Add(9, Prompt(30));
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("7:12+1!", "8:3+1!", "9:0+8"));
  scheduler.Commit(std::vector<int32_t>{1, 2});
  scheduler.Remove(7);
  scheduler.Add(10, Prompt(2));
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("8:4+1!", "9:8+9"));
  scheduler.Commit(std::vector<int32_t>{1});
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("8:5+1!", "9:17+9"));
}

TEST(Scheduler, RunsNoMoreSequencesThanAllowed) {
  BlockPool pool(100);
  Scheduler scheduler({.max_step_tokens = 100, .max_running = 2, .block_size = 4}, pool);
  for (int id = 0; id < 3; ++id) scheduler.Add(id, Prompt(3));
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("0:0+3!", "1:0+3!"));
  scheduler.Commit(std::vector<int32_t>{5, 5});
  scheduler.Remove(0);
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("1:3+1!", "2:0+3!"));
}

TEST(Scheduler, AdmitsNoSequenceWhosePromptLacksBlocks) {
  BlockPool pool(5);
  Scheduler scheduler({.max_step_tokens = 6, .max_running = 9, .block_size = 4}, pool);
  scheduler.Add(0, Prompt(9));  // three blocks, though its first chunk needs two
  scheduler.Add(1, Prompt(9));
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("0:0+6"));
  EXPECT_EQ(pool.num_free(), 2);
  scheduler.Commit({});
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("0:6+3!"));
  EXPECT_EQ(pool.num_free(), 2);  // the attempt left nothing behind
  scheduler.Commit(std::vector<int32_t>{5});
  scheduler.Remove(0);
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("1:0+6"));
}

TEST(Scheduler, PreemptsTheYoungestAndRecomputesItLater) {
  BlockPool pool(4);
  Scheduler scheduler({.max_step_tokens = 64, .max_running = 9, .block_size = 4}, pool);
  scheduler.Add(0, Prompt(8));
  scheduler.Add(1, Prompt(7));
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("0:0+8!", "1:0+7!"));
  EXPECT_EQ(pool.num_free(), 0);
  scheduler.Commit(std::vector<int32_t>{50, 60});
  // 0 needs a third block: 1 gives up its two, and does not come back in the same step.
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("0:8+1!"));
  EXPECT_EQ(scheduler.num_preemptions(), 1);
  scheduler.Commit(std::vector<int32_t>{51});
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("0:9+1!"));
  scheduler.Commit(std::vector<int32_t>{52});
  scheduler.Remove(0);
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("1:0+8!"));
  EXPECT_EQ(scheduler.sequence(1).tokens.back(), 60);
}

TEST(Scheduler, TheYoungestPreemptsItselfWhenOlderOnesHoldAll) {
  BlockPool pool(4);
  Scheduler scheduler({.max_step_tokens = 64, .max_running = 9, .block_size = 4}, pool);
  scheduler.Add(0, Prompt(5));
  scheduler.Add(1, Prompt(8));
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("0:0+5!", "1:0+8!"));
  scheduler.Commit(std::vector<int32_t>{50, 60});
  EXPECT_THAT(PlanOf(scheduler), ElementsAre("0:5+1!"));
  EXPECT_EQ(scheduler.sequence(1).num_computed, 0);
  EXPECT_EQ(pool.num_free(), 2);
}

// A stand-in for a model: the next token is a function of all tokens so far.
int32_t NextToken(const std::vector<int32_t>& tokens) {
  uint32_t hash = 2166136261u;
  for (const int32_t token : tokens) hash = (hash ^ static_cast<uint32_t>(token)) * 16777619u;
  return static_cast<int32_t>(hash % 1000);
}

// Random arrivals, lengths, aborts and tiny pools. After every step: free + held = all blocks, no
// slot is written twice, budgets hold; at the end every sequence has the tokens that it would have
// alone. Adds up the preemptions.
void Simulate(uint32_t seed, int64_t& num_preemptions) {
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const auto pick = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint32_t>(high - low + 1));
  };
  const SchedulerLimits limits{
      .max_step_tokens = pick(1, 40), .max_running = pick(1, 8), .block_size = pick(1, 9)};
  const int64_t longest = pick(2, 60);
  BlockPool pool(BlocksFor(longest, limits.block_size) + pick(0, 12));
  Scheduler scheduler(limits, pool);

  struct Request {
    std::vector<int32_t> prompt;
    int64_t max_output;
    bool done = false;
  };
  std::vector<Request> requests;
  // A simulated KV cache: (block, slot) → the token written there and its position.
  std::map<std::pair<int32_t, int64_t>, std::pair<int32_t, int64_t>> cache;
  const int64_t total = pick(1, 30);
  int64_t steps = 0;
  while (static_cast<int64_t>(requests.size()) < total || !scheduler.idle()) {
    ASSERT_LT(++steps, 200'000);
    if (static_cast<int64_t>(requests.size()) < total && (scheduler.idle() || pick(0, 3) == 0)) {
      const int64_t length = pick(1, longest);
      const int64_t max_output = pick(1, longest - length + 1);
      requests.push_back({Prompt(length, static_cast<int32_t>(pick(0, 500))), max_output});
      scheduler.Add(static_cast<int64_t>(requests.size()) - 1, requests.back().prompt);
    }

    std::vector<int32_t> tokens;
    std::set<std::pair<int32_t, int64_t>> written;
    std::set<int64_t> planned;
    int64_t num_tokens = 0;
    for (const Chunk& chunk : scheduler.Plan()) {
      const Sequence& sequence = scheduler.sequence(chunk.sequence);
      ASSERT_TRUE(planned.insert(chunk.sequence).second);
      ASSERT_GE(chunk.count, 1);
      num_tokens += chunk.count;
      for (int64_t position = chunk.first; position < chunk.first + chunk.count; ++position) {
        const std::pair slot(sequence.blocks.at(position / limits.block_size),
                             position % limits.block_size);
        ASSERT_TRUE(written.insert(slot).second);
        cache[slot] = {sequence.tokens[position], position};
      }
      // Its whole context is in the slots of its blocks.
      for (int64_t position = 0; position < chunk.first + chunk.count; ++position) {
        const std::pair slot(sequence.blocks.at(position / limits.block_size),
                             position % limits.block_size);
        ASSERT_EQ(cache.at(slot), std::pair(sequence.tokens[position], position));
      }
      const bool complete =
          chunk.first + chunk.count == static_cast<int64_t>(sequence.tokens.size());
      ASSERT_EQ(chunk.wants_token, complete);
      if (complete) tokens.push_back(NextToken(sequence.tokens));
    }
    ASSERT_LE(num_tokens, limits.max_step_tokens);
    ASSERT_LE(scheduler.num_running(), limits.max_running);
    scheduler.Commit(tokens);

    int64_t held = 0;
    for (size_t id = 0; id < requests.size(); ++id) {
      Request& request = requests[id];
      if (request.done) continue;
      const Sequence& sequence = scheduler.sequence(static_cast<int64_t>(id));
      const size_t output = sequence.tokens.size() - request.prompt.size();
      const bool aborted = pick(0, 200) == 0;
      if (aborted || output == static_cast<size_t>(request.max_output)) {
        std::vector<int32_t> alone = request.prompt;
        for (size_t i = 0; i < output; ++i) alone.push_back(NextToken(alone));
        ASSERT_EQ(sequence.tokens, alone);
        scheduler.Remove(static_cast<int64_t>(id));
        request.done = true;
      } else {
        held += static_cast<int64_t>(sequence.blocks.size());
      }
    }
    ASSERT_EQ(pool.num_free() + held, pool.num_blocks());
  }
  ASSERT_EQ(pool.num_free(), pool.num_blocks());
  num_preemptions += scheduler.num_preemptions();
}

TEST(SchedulerSimulation, AllSequencesFinishAndAllBlocksAreAccountedFor) {
  int64_t num_preemptions = 0;
  for (uint32_t seed = 0; seed < 400 && !::testing::Test::HasFatalFailure(); ++seed) {
    Simulate(seed, num_preemptions);
  }
  EXPECT_GT(num_preemptions, 100);  // or the simulation is not one
}

}  // namespace
}  // namespace nibble
