#include "quantize/passes/router_census.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr RouterShape kShape{.num_experts = 3, .top_k = 2};

// Four tokens, three experts, two each.
RoutingTable RoutingOfFourTokens() {
  RoutingTable routing;
  routing.num_tokens = 4;
  routing.num_experts = 3;
  routing.top_k = 2;
  routing.experts = {0, 1, 2, 0, 0, 1, 1, 0};
  routing.weights = {0.6f, 0.4f, 0.5f, 0.5f, 0.9f, 0.1f, 0.7f, 0.3f};
  routing.logits = {3, 2, 0, 2, 1, 3, 5, 4, 3, 4, 5, 2};
  return routing;
}

TEST(RouterCensus, CountsAndFindsTheLikeliestUnroutedTokens) {
  RouterCensus census(kShape, 4, {.probabilities = true});
  census.Add(RoutingOfFourTokens(), 0);
  EXPECT_THAT(census.tokens_per_expert(), ElementsAre(4, 3, 1));
  // Expert 2 has token 1; of the other tokens, its router probability is highest for token 2, then
  // for 0.
  const auto extra = census.TopUp(3);
  EXPECT_THAT(extra[0], IsEmpty());
  EXPECT_THAT(extra[1], IsEmpty());
  EXPECT_THAT(extra[2], ElementsAre(0, 2));
  EXPECT_THAT(census.TopUp(2)[2], ElementsAre(2));
  EXPECT_THAT(census.TopUp(100)[2], ElementsAre(0, 2, 3));  // there are no more
}

TEST(RouterCensus, GivesBackWhatItWasToldOfAnyTokens) {
  RouterCensus census(kShape, 8, {.choices = true});
  census.Add(RoutingOfFourTokens(), 4);
  RoutingTable routing = RoutingOfFourTokens();
  routing.GroupByExpert(0, 3);
  census.Choices(5, 2, routing);
  EXPECT_EQ(routing.num_tokens, 2);
  EXPECT_THAT(routing.experts, ElementsAre(2, 0, 0, 1));
  EXPECT_THAT(routing.weights, ElementsAre(0.5f, 0.5f, 0.9f, 0.1f));
  EXPECT_EQ(routing.num_slots(), 0);  // those were of other tokens
  routing.GroupByExpert(0, 2);
  EXPECT_THAT(routing.slot_tokens, ElementsAre(0, 1, 1));
  EXPECT_EQ(RouterCensus::SizeBytes(kShape, 8, {.choices = true}), 8 * 2 * 8);
  EXPECT_EQ(RouterCensus::SizeBytes(kShape, 8, {.choices = true, .probabilities = true}),
            8 * (2 * 8 + 3 * 4));
  EXPECT_EQ(RouterCensus::SizeBytes(kShape, 8, {}), 0);
}

}  // namespace
}  // namespace nibble
