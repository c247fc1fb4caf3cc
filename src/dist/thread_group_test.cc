#include "dist/thread_group.h"

#include <gtest/gtest.h>

#include <thread>

namespace nibble {
namespace {

TEST(ThreadGroup, GathersWhatEveryRankGaveInTheirOrder) {
  for (const int64_t size : {1, 2, 3, 5}) {
    ThreadGroup group(size);
    std::vector<std::vector<float>> gathered(size);
    std::vector<std::jthread> threads;
    for (int64_t r = 0; r < size; ++r) {
      threads.emplace_back([&, r] {
        Communicator& rank = group.rank(r);
        EXPECT_EQ(rank.rank(), r);
        EXPECT_EQ(rank.size(), size);
        std::vector<float>& all = gathered[r];
        for (int64_t round = 0; round < 100; ++round) {  // rank r gives r numbers
          std::vector<int64_t> counts;
          for (int64_t i = 0; i < size; ++i) counts.push_back(i);
          const std::vector<float> mine(r, static_cast<float>(100 * r + round));
          std::vector<float> of_round(size * (size - 1) / 2);
          rank.AllGather(mine, counts, of_round);
          all.insert(all.end(), of_round.begin(), of_round.end());
        }
      });
    }
    threads.clear();
    std::vector<float> expected;
    for (int64_t round = 0; round < 100; ++round) {
      for (int64_t r = 0; r < size; ++r) {
        expected.insert(expected.end(), static_cast<size_t>(r),
                        static_cast<float>(100 * r + round));
      }
    }
    for (const auto& all : gathered) EXPECT_EQ(all, expected) << size;
  }
}

}  // namespace
}  // namespace nibble
