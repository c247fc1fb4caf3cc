#include "dist/thread_group.h"

#include <algorithm>
#include <barrier>

#include "base/check.h"

namespace nibble {

struct ThreadGroup::Shared {
  explicit Shared(int64_t size) : given(static_cast<size_t>(size)), barrier(size) {}

  std::vector<std::span<const float>> given;  // by each rank, between the two barriers of a gather
  std::barrier<> barrier;
};

class ThreadGroup::Rank final : public Communicator {
 public:
  Rank(Shared& shared, int64_t rank) : shared_(shared), rank_(rank) {}

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return static_cast<int64_t>(shared_.given.size()); }

  void AllGather(std::span<const float> mine, std::span<const int64_t> counts,
                 std::span<float> all) override {
    NIBBLE_CHECK(static_cast<int64_t>(counts.size()) == size());
    shared_.given[rank_] = mine;
    shared_.barrier.arrive_and_wait();
    auto to = all.begin();
    for (size_t r = 0; r < counts.size(); ++r) {
      const std::span<const float> part = shared_.given[r];
      NIBBLE_CHECK(static_cast<int64_t>(part.size()) == counts[r]);
      NIBBLE_CHECK(all.end() - to >= counts[r]);
      to = std::ranges::copy(part, to).out;
    }
    NIBBLE_CHECK(to == all.end());
    shared_.barrier.arrive_and_wait();  // no rank reads another's memory any more
  }

 private:
  Shared& shared_;
  int64_t rank_;
};

ThreadGroup::ThreadGroup(int64_t size) : shared_(std::make_unique<Shared>(size)) {
  NIBBLE_CHECK(size >= 1);
  for (int64_t r = 0; r < size; ++r) ranks_.push_back(std::make_unique<Rank>(*shared_, r));
}

ThreadGroup::~ThreadGroup() = default;

Communicator& ThreadGroup::rank(int64_t index) { return *ranks_.at(index); }

}  // namespace nibble
