#include "backend/routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

RoutingTable FourTokensTopTwo() {
  RoutingTable routing;
  routing.num_tokens = 4;
  routing.num_experts = 5;
  routing.top_k = 2;
  routing.experts = {3, 0, 0, 4, 3, 1, 0, 3};
  routing.weights = {0.75f, 0.25f, 0.6f, 0.4f, 0.9f, 0.1f, 0.5f, 0.5f};
  return routing;
}

TEST(RoutingTable, GroupsSlotsByExpertWithTokensIncreasing) {
  RoutingTable routing = FourTokensTopTwo();
  routing.GroupByExpert(0, 5);
  EXPECT_THAT(routing.expert_starts, ElementsAre(0, 3, 4, 4, 7, 8));
  EXPECT_THAT(routing.slot_tokens, ElementsAre(0, 1, 3, 2, 0, 2, 3, 1));
  EXPECT_THAT(routing.slot_weights, ElementsAre(0.25f, 0.6f, 0.5f, 0.1f, 0.75f, 0.9f, 0.5f, 0.4f));
}

TEST(RoutingTable, GroupsOnlyTheExpertsAskedFor) {
  RoutingTable routing = FourTokensTopTwo();
  routing.GroupByExpert(1, 4);
  EXPECT_THAT(routing.expert_starts, ElementsAre(0, 0, 1, 1, 4, 4));
  EXPECT_THAT(routing.slot_tokens, ElementsAre(2, 0, 2, 3));

  routing.GroupByExpert(0, 5);  // grouping again starts afresh
  EXPECT_EQ(routing.num_slots(), 8);
}

TEST(RoutingTable, AnEmptyRangeOfExpertsHasNoSlots) {
  RoutingTable routing = FourTokensTopTwo();
  routing.GroupByExpert(2, 2);
  EXPECT_THAT(routing.expert_starts, ElementsAre(0, 0, 0, 0, 0, 0));
  EXPECT_THAT(routing.slot_tokens, IsEmpty());
}

TEST(RoutingTable, NoTokensAreFine) {
  RoutingTable routing;
  routing.num_experts = 2;
  routing.top_k = 2;
  routing.GroupByExpert(0, 2);
  EXPECT_THAT(routing.expert_starts, ElementsAre(0, 0, 0));
}

}  // namespace
}  // namespace nibble
