#include "base/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

// How a job runs. The caller writes the job, opens the gate and increments the epoch. Workers that
// are awake enter the gate (a counter), take indices until none are left, and leave. The caller
// takes indices too, then closes the gate and waits until the counter is zero. A worker that wakes
// late finds the gate closed and sleeps again: on a busy machine the caller never waits for a
// thread that has done no work.
namespace nibble {
namespace {

constexpr uint32_t kOpen = 0x80000000u;  // top bit of the gate; the rest counts the workers inside
constexpr auto kSpinTime = std::chrono::microseconds(30);

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Waits until `word` is no longer `old`: spins for kSpinTime, since the next job of a decode step
// is microseconds away, then blocks.
void WaitWhileEqual(const std::atomic<uint32_t>& word, uint32_t old, bool spin) {
  if (spin) {
    const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
    do {
      for (int i = 0; i < 16; ++i) {
        if (word.load(std::memory_order_acquire) != old) return;
        Pause();
      }
    } while (std::chrono::steady_clock::now() < deadline);
  }
  word.wait(old, std::memory_order_acquire);
}

// The pool whose body this thread is running, and the thread's number there.
thread_local const void* current_pool = nullptr;
thread_local int current_thread = 0;

class InsideBody {
 public:
  InsideBody(const void* pool, int thread)
      : outer_pool_(std::exchange(current_pool, pool)),
        outer_thread_(std::exchange(current_thread, thread)) {}
  ~InsideBody() {
    current_pool = outer_pool_;
    current_thread = outer_thread_;
  }
  InsideBody(const InsideBody&) = delete;
  InsideBody& operator=(const InsideBody&) = delete;

 private:
  const void* outer_pool_;
  int outer_thread_;
};

}  // namespace

struct ThreadPool::State {
  // The job: written by the caller while the gate is closed and empty, read by the workers inside.
  const std::function<void(int64_t, int)>* body = nullptr;
  int64_t count = 0;

  bool spin = true;
  alignas(64) std::atomic<int64_t> next = 0;
  alignas(64) std::atomic<uint32_t> gate = 0;
  alignas(64) std::atomic<uint32_t> epoch = 0;
  std::atomic<bool> stop = false;

  std::mutex error_mutex;
  std::exception_ptr error;  // guarded by error_mutex; the first one of the job

  std::vector<std::jthread> workers;  // last member: joined before the others are destroyed

  void TakeIndices(int thread) {
    const InsideBody inside(this, thread);
    const int64_t end = count;
    const auto& call = *body;
    try {
      for (;;) {
        const int64_t index = next.fetch_add(1, std::memory_order_relaxed);
        if (index >= end) return;
        call(index, thread);
      }
    } catch (...) {
      next.store(end, std::memory_order_relaxed);  // nothing new starts after a failure
      const std::scoped_lock lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  }

  bool Enter() {
    uint32_t seen = gate.load(std::memory_order_acquire);
    while ((seen & kOpen) != 0) {
      if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  }

  void Leave() {
    if (gate.fetch_sub(1, std::memory_order_acq_rel) == 1) gate.notify_one();
  }

  void WorkerLoop(int thread) {
    while (!stop.load(std::memory_order_acquire)) {
      const uint32_t seen = epoch.load(std::memory_order_acquire);
      if (Enter()) {
        TakeIndices(thread);
        Leave();
      }
      if (stop.load(std::memory_order_acquire)) return;
      WaitWhileEqual(epoch, seen, spin);
    }
  }

  void Wake() {
    epoch.fetch_add(1, std::memory_order_acq_rel);
    epoch.notify_all();
  }

  ~State() {
    stop.store(true, std::memory_order_release);
    Wake();
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  NIBBLE_CHECK(num_threads >= 1);
  // With more threads than CPUs, a spinning thread takes a CPU from one that has work.
  state_->spin = num_threads <= AvailableThreads();
  state_->workers.reserve(num_threads - 1);
  for (int thread = 1; thread < num_threads; ++thread) {
    state_->workers.emplace_back([state = state_.get(), thread] { state->WorkerLoop(thread); });
  }
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::num_threads() const { return static_cast<int>(state_->workers.size()) + 1; }

bool ThreadPool::InBody() const { return current_pool == state_.get(); }

void ThreadPool::ParallelFor(int64_t count, const std::function<void(int64_t, int)>& body) {
  if (count <= 0) return;
  if (InBody() || count == 1 || state_->workers.empty()) {
    const int thread = InBody() ? current_thread : 0;
    for (int64_t index = 0; index < count; ++index) body(index, thread);
    return;
  }
  State& state = *state_;
  NIBBLE_CHECK(state.body == nullptr);  // called from two threads
  state.body = &body;
  state.count = count;
  state.next.store(0, std::memory_order_relaxed);
  state.gate.store(kOpen, std::memory_order_release);
  state.Wake();

  state.TakeIndices(0);

  uint32_t inside = state.gate.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  while (inside != 0) {
    WaitWhileEqual(state.gate, inside, state.spin);
    inside = state.gate.load(std::memory_order_acquire);
  }
  state.body = nullptr;
  if (state.error) std::rethrow_exception(std::exchange(state.error, nullptr));
}

int AvailableThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    const int count = CPU_COUNT(&set);
    if (count > 0) return count;
  }
  const unsigned count = std::thread::hardware_concurrency();
  return count > 0 ? static_cast<int>(count) : 1;
}

}  // namespace nibble
