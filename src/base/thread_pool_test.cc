#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace nibble {
namespace {

TEST(ThreadPool, RunsEachIndexOnce) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (const int64_t count : {0, 1, 2, 5, 1000}) {
      std::vector<std::atomic<int>> seen(count);
      pool.ParallelFor(count, [&](int64_t index, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        ++seen[index];
      });
      for (const auto& times : seen) EXPECT_EQ(times, 1);
    }
  }
}

TEST(ThreadPool, GivesEachThreadItsOwnNumber) {
  ThreadPool pool(4);
  // Each thread writes plain memory under its number: the thread sanitizer sees any sharing.
  std::vector<int64_t> sums(4, 0);
  for (int round = 0; round < 50; ++round) {
    pool.ParallelFor(100, [&](int64_t index, int thread) { sums[thread] += index; });
  }
  EXPECT_EQ(sums[0] + sums[1] + sums[2] + sums[3], 50 * 4950);
}

TEST(ThreadPool, UsesTheOtherThreads) {
  ThreadPool pool(3);
  // Every index waits until all three have begun: only three threads can get through.
  std::atomic<int> begun = 0;
  pool.ParallelFor(3, [&](int64_t, int) {
    ++begun;
    while (begun < 3) std::this_thread::yield();
  });
  EXPECT_EQ(begun, 3);
}

TEST(ThreadPool, SeesWhatEarlierJobsWrote) {
  ThreadPool pool(3);
  std::vector<int64_t> values(64, 0);
  for (int round = 0; round < 2000; ++round) {  // short jobs in quick succession
    pool.ParallelFor(64, [&](int64_t index, int) {
      int64_t& value = values[index];
      value = value == round - 1 || round == 0 ? round : -1;
    });
    for (const int64_t value : values) ASSERT_EQ(value, round);
  }
}

TEST(ThreadPool, WakesWorkersThatHaveGoneToSleep) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> begun = 0;
    pool.ParallelFor(2, [&](int64_t, int) {
      ++begun;
      while (begun < 2) std::this_thread::yield();
    });
  }
}

TEST(ThreadPool, RunsCallsFromInsideABodyOnThatBodysThread) {
  ThreadPool pool(2);
  EXPECT_FALSE(pool.InBody());
  std::atomic<int> wrong = 0;
  for (int round = 0; round < 20; ++round) {
    pool.ParallelFor(8, [&](int64_t, int outer) {
      if (!pool.InBody()) ++wrong;
      const auto id = std::this_thread::get_id();
      pool.ParallelFor(5, [&](int64_t, int inner) {
        if (inner != outer || std::this_thread::get_id() != id) ++wrong;
      });
      ThreadPool other(1);
      if (other.InBody()) ++wrong;
    });
    EXPECT_FALSE(pool.InBody());  // the next one is shared again
  }
  EXPECT_EQ(wrong, 0);
}

TEST(ThreadPool, HandsAnExceptionToTheCallerAndGoesOn) {
  for (const int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (const int64_t failing : {0, 57, 99}) {
      std::string message;
      try {
        pool.ParallelFor(100, [&](int64_t index, int) {
          if (index == failing) throw std::runtime_error("index " + std::to_string(index));
        });
      } catch (const std::runtime_error& error) {
        message = error.what();
      }
      EXPECT_EQ(message, "index " + std::to_string(failing));
      std::atomic<int64_t> sum = 0;
      pool.ParallelFor(10, [&](int64_t index, int) { sum += index; });
      EXPECT_EQ(sum, 45);
    }
  }
}

TEST(ThreadPool, StartsNothingNewAfterAFailure) {
  ThreadPool pool(2);
  std::atomic<int64_t> ran = 0;
  EXPECT_THROW(pool.ParallelFor(1'000'000'000'000,
                                [&](int64_t, int) {
                                  ++ran;
                                  throw std::runtime_error("stop");
                                }),
               std::runtime_error);
  EXPECT_LE(ran, 2);
}

TEST(AvailableThreads, IsAtLeastOne) { EXPECT_GE(AvailableThreads(), 1); }

}  // namespace
}  // namespace nibble
