#include "quantize/passes/slot_selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace nibble {
namespace {

using ::testing::ElementsAre;

// Four tokens, three experts, two each.
RoutingTable ExampleRouting() {
  RoutingTable routing;
  routing.num_tokens = 4;
  routing.num_experts = 3;
  routing.top_k = 2;
  routing.experts = {0, 1, 2, 0, 0, 1, 1, 0};
  routing.weights = {0.6f, 0.4f, 0.5f, 0.5f, 0.9f, 0.1f, 0.7f, 0.3f};
  routing.logits = {3, 2, 0, 2, 1, 3, 5, 4, 3, 4, 5, 2};
  routing.GroupByExpert(0, 3);
  return routing;
}

TEST(SelectSlots, RoutedTokensByDefault) {
  RoutingTable slots;
  SelectSlots(ExampleRouting(), 100, {}, 1, 3, slots);
  EXPECT_THAT(slots.expert_starts, ElementsAre(0, 0, 3, 4));
  EXPECT_THAT(slots.slot_tokens, ElementsAre(0, 2, 3, 1));
}

TEST(SelectSlots, AllTokensWhenAsked) {
  RoutingTable slots;
  ExpertSelection selection;
  selection.all_tokens = true;
  SelectSlots(ExampleRouting(), 100, selection, 0, 2, slots);
  EXPECT_THAT(slots.expert_starts, ElementsAre(0, 4, 8, 8));
  EXPECT_THAT(slots.slot_tokens, ElementsAre(0, 1, 2, 3, 0, 1, 2, 3));
}

TEST(SelectSlots, ExtraTokensInTheirPlaces) {
  RoutingTable slots;
  ExpertSelection selection;
  selection.extra_tokens = {{}, {}, {3, 99, 100, 103, 104}};
  SelectSlots(ExampleRouting(), 100, selection, 0, 3, slots);
  EXPECT_THAT(slots.expert_starts, ElementsAre(0, 4, 7, 10));
  EXPECT_THAT(std::vector<int32_t>(slots.slot_tokens.begin() + 7, slots.slot_tokens.end()),
              ElementsAre(0, 1, 3));
  EXPECT_EQ(slots.slot_weights.size(), 10u);
}

}  // namespace
}  // namespace nibble
