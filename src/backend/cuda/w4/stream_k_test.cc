#include "backend/cuda/w4/stream_k.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace nibble::cuda {
namespace {

struct Done {
  int64_t cta;
  int order;  // within the CTA
  WorkSlice slice;
};

std::vector<Done> AllSlices(const Partition& p) {
  std::vector<Done> all;
  for (int64_t cta = 0; cta < p.num_ctas; ++cta) {
    int order = 0;
    for (WorkSlice s = FirstSlice(p, cta); s.num_groups > 0; s = NextSlice(p, cta, s)) {
      all.push_back({cta, order++, s});
    }
  }
  return all;
}

// Checks every property that the kernels rely on.
void Check(const Partition& p) {
  SCOPED_TRACE(::testing::Message() << p.num_tiles << " tiles of " << p.groups_per_tile
                                    << " groups, " << p.num_ctas << " CTAs, splits " << p.splits);
  const std::vector<Done> all = AllSlices(p);
  std::map<int64_t, std::vector<Done>> tiles;
  std::vector<int64_t> groups_of_cta(static_cast<size_t>(p.num_ctas));
  std::map<int64_t, int> slots;  // of slices that keep a partial sum
  for (const Done& done : all) {
    ASSERT_GE(done.slice.tile, 0);
    ASSERT_LT(done.slice.tile, p.num_tiles);
    tiles[done.slice.tile].push_back(done);
    groups_of_cta[static_cast<size_t>(done.cta)] += done.slice.num_groups;
    if (!done.slice.owns_tile()) ++slots[done.slice.slot()];
  }
  ASSERT_EQ(static_cast<int64_t>(tiles.size()), p.num_tiles);
  for (const auto& [slot, uses] : slots) {
    ASSERT_GE(slot, 0);
    ASSERT_LT(slot, p.num_slots());
    ASSERT_EQ(uses, 1) << "slot " << slot;
  }
  for (auto& [tile, slices] : tiles) {
    std::ranges::sort(slices, {}, [](const Done& done) { return done.slice.index; });
    int32_t group = 0;
    const Done& owner = slices.back();
    for (size_t i = 0; i < slices.size(); ++i) {  // contiguous, each group once, one owner
      const WorkSlice& slice = slices[i].slice;
      ASSERT_EQ(slice.index, static_cast<int32_t>(i));
      ASSERT_EQ(slice.count, static_cast<int32_t>(slices.size()));
      ASSERT_EQ(slice.first_slot, owner.slice.first_slot);
      ASSERT_EQ(slice.first_group, group);
      ASSERT_GT(slice.num_groups, 0);
      ASSERT_EQ(slice.owns_tile(), i + 1 == slices.size());
      group += slice.num_groups;
      // The owner waits only for lower CTAs and for earlier slices of its own CTA.
      if (i + 1 < slices.size()) {
        ASSERT_TRUE(slices[i].cta < owner.cta ||
                    (slices[i].cta == owner.cta && slices[i].order < owner.order));
      }
    }
    ASSERT_EQ(group, p.groups_per_tile);
  }
  const auto [least, most] = std::ranges::minmax(groups_of_cta);
  if (p.splits == 0) {
    ASSERT_LE(most - least, 1);
  } else {
    const int64_t slices_at_most = (p.num_units() + p.num_ctas - 1) / p.num_ctas;
    const int64_t groups_at_most = (p.groups_per_tile + p.splits - 1) / p.splits;
    ASSERT_LE(most, slices_at_most * groups_at_most);
  }
}

TEST(StreamK, EveryGroupOnceAndNoCircles) {
  std::mt19937 random(1);
  for (int repeat = 0; repeat < 2000 && !::testing::Test::HasFatalFailure(); ++repeat) {
    Partition p;
    p.num_tiles = 1 + static_cast<int64_t>(random() % 70);
    p.groups_per_tile = 1 + static_cast<int32_t>(random() % (repeat % 2 == 0 ? 5 : 130));
    p.num_ctas = 1 + static_cast<int32_t>(random() % 148);
    p.splits = repeat % 4 < 2
                   ? 0
                   : 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(p.groups_per_tile));
    Check(p);
  }
}

TEST(StreamK, AllNumbersOfCtas) {
  for (int32_t ctas = 1; ctas <= 148 && !::testing::Test::HasFatalFailure(); ++ctas) {
    Check({.num_tiles = 2 * 128, .groups_per_tile = 48, .num_ctas = ctas, .splits = 0});
    Check({.num_tiles = 24, .groups_per_tile = 48, .num_ctas = ctas, .splits = 0});
    Check({.num_tiles = 24, .groups_per_tile = 48, .num_ctas = ctas, .splits = 5});
    Check({.num_tiles = 1, .groups_per_tile = 3, .num_ctas = ctas, .splits = 0});
  }
}

TEST(StreamK, NothingToDo) {
  const Partition p{.num_tiles = 0, .groups_per_tile = 48, .num_ctas = 132, .splits = 0};
  EXPECT_TRUE(AllSlices(p).empty());
  EXPECT_TRUE(
      AllSlices({.num_tiles = 0, .groups_per_tile = 48, .num_ctas = 1, .splits = 3}).empty());
}

// All CTAs advance at equal speed, group by group: the owner of a tile then finds its other slices
// finished, or at most one group short of it.
TEST(StreamK, OwnersDoNotWait) {
  for (const int32_t ctas : {66, 108, 132, 144}) {
    for (const auto& [tiles, groups] :
         {std::pair{256, 48}, {32, 48}, {24, 48}, {48, 128}, {700, 48}, {5, 128}}) {
      const Partition p{
          .num_tiles = tiles, .groups_per_tile = groups, .num_ctas = ctas, .splits = 0};
      std::map<std::pair<int64_t, int32_t>, int64_t> finished;  // in groups of time
      const std::vector<Done> all = AllSlices(p);
      std::vector<int64_t> clock(static_cast<size_t>(ctas));
      for (const Done& done : all) {
        int64_t& now = clock[static_cast<size_t>(done.cta)];
        now += done.slice.num_groups;
        finished[{done.slice.tile, done.slice.index}] = now;
      }
      for (const Done& done : all) {
        if (!done.slice.owns_tile()) continue;
        const int64_t mine = finished[{done.slice.tile, done.slice.index}];
        for (int32_t i = 0; i < done.slice.index; ++i) {
          EXPECT_LE((finished[{done.slice.tile, i}]), mine + 1) << done.slice.tile;
        }
      }
    }
  }
}

// A token's bits must not depend on the number of other tokens.
TEST(StreamK, FixedSlicesDoNotDependOnTheNumberOfTilesOrCtas) {
  std::vector<std::pair<int32_t, int32_t>> first;
  for (const auto& [tiles, ctas] : {std::pair{1, 132}, {7, 132}, {300, 132}, {300, 1}, {64, 108}}) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      std::vector<std::pair<int32_t, int32_t>> cuts;
      const Partition p{.num_tiles = tiles, .groups_per_tile = 48, .num_ctas = ctas, .splits = 5};
      for (int64_t cta = 0; cta < ctas; ++cta) {
        for (WorkSlice s = FirstSlice(p, cta); s.num_groups > 0; s = NextSlice(p, cta, s)) {
          if (s.tile == tile) cuts.emplace_back(s.first_group, s.num_groups);
        }
      }
      if (first.empty()) first = cuts;
      ASSERT_EQ(cuts, first);
      if (tile > 10) tile += 50;
    }
  }
  EXPECT_EQ(first.size(), 5u);
}

TEST(ExpertTiles, CoverEveryRowAndPanelOnce) {
  std::mt19937 random(2);
  for (int repeat = 0; repeat < 300; ++repeat) {
    const int32_t experts = 1 + static_cast<int32_t>(random() % 9);
    const int64_t panels = 1 + static_cast<int64_t>(random() % 7);
    const int32_t block = 8 * (1 + static_cast<int32_t>(random() % 8));
    std::vector<int32_t> offsets = {0};
    for (int32_t e = 0; e < experts; ++e) {
      offsets.push_back(offsets.back() +
                        (random() % 3 == 0 ? 0 : static_cast<int32_t>(random() % 150)));
    }
    const auto rows = static_cast<size_t>(offsets.back());
    std::vector<int> covered(rows * static_cast<size_t>(panels));
    const int64_t tiles = CountExpertTiles(offsets.data(), experts, panels, block);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const ExpertTile found = FindExpertTile(offsets.data(), experts, panels, block, tile);
      ASSERT_GT(found.num_rows, 0);
      ASSERT_LE(found.num_rows, block);
      ASSERT_LT(found.panel, panels);
      ASSERT_GE(found.first_row, offsets[static_cast<size_t>(found.expert)]);
      ASSERT_LE(found.first_row + found.num_rows, offsets[static_cast<size_t>(found.expert) + 1]);
      for (int32_t row = found.first_row; row < found.first_row + found.num_rows; ++row) {
        ++covered[static_cast<size_t>(found.panel) * rows + static_cast<size_t>(row)];
      }
    }
    ASSERT_THAT(covered, ::testing::Each(1));
  }
}

}  // namespace
}  // namespace nibble::cuda
