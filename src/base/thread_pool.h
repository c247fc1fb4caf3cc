#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace nibble {

// A fork-join pool. `ParallelFor` splits work by index, never by result, so what is computed does
// not depend on how many threads compute it. Calls come from one thread at a time, or from inside a
// body: there they are plain loops on that body's thread.
class ThreadPool {
 public:
  // The caller counts as one of the `num_threads` (at least 1); num_threads - 1 workers are
  // started.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Runs body(index, thread) for each index in [0, count), assigned dynamically in increasing order
  // to free threads; `thread` is in [0, num_threads) and may index scratch buffers. Returns when
  // all are done. The first exception thrown by a body is rethrown here.
  void ParallelFor(int64_t count, const std::function<void(int64_t index, int thread)>& body);

  // Whether the calling thread is inside a body that several threads share.
  bool InBody() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Number of CPUs this process may run on (affinity mask respected).
int AvailableThreads();

}  // namespace nibble
