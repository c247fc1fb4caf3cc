#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "dist/communicator.h"

namespace nibble {

// Ranks as threads of one process, whose gathers go through memory: for tests, and for machines
// whose memory has several nodes.
class ThreadGroup {
 public:
  explicit ThreadGroup(int64_t size);
  ~ThreadGroup();
  ThreadGroup(const ThreadGroup&) = delete;
  ThreadGroup& operator=(const ThreadGroup&) = delete;

  // Of one rank, for the thread that is this rank. Lives as long as the group.
  Communicator& rank(int64_t index);

 private:
  struct Shared;
  class Rank;

  std::unique_ptr<Shared> shared_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

}  // namespace nibble
