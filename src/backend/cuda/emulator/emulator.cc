#include <cuda_runtime.h>
#include <ucontext.h>

#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define NIBBLE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NIBBLE_ASAN 1
#endif
#endif
#ifdef NIBBLE_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef NIBBLE_ASAN
// ASan's fake stack frames (use-after-return) would cost more than the kernels.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace nibble::cuda::emulator {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr unsigned kWarp = 32;

enum class State { kRunnable, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::kDone;
  unsigned exchanges = 0;    // shuffles of this thread so far
  uint64_t offered[2] = {};  // values passed to shuffles, double-buffered
};

// One block at a time, on the calling thread.
class Block {
 public:
  void Run(unsigned num_threads, const std::function<void()>& thread) {
    thread_ = &thread;
    if (fibers_.size() < num_threads) fibers_.resize(num_threads);
    num_threads_ = num_threads;
    for (unsigned t = 0; t < num_threads; ++t) {
      Fiber& fiber = fibers_[t];
      if (fiber.stack == nullptr) fiber.stack.reset(new char[kStackBytes]);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, &Block::Main, 0);
      fiber.state = State::kRunnable;
      fiber.exchanges = 0;
    }
    std::vector<unsigned> order(num_threads);
    std::iota(order.begin(), order.end(), 0u);
    do {
      std::shuffle(order.begin(), order.end(), random_);
      for (const unsigned t : order) {
        if (fibers_[t].state == State::kRunnable) Resume(t);
      }
    } while (Release());
  }

  void Wait(State state) {
    fibers_[current_].state = state;
    Suspend(false);
  }

  uint64_t Exchange(unsigned mask, uint64_t value, unsigned lane) {
    if (mask != 0xffffffffu) Fail("only full warps may exchange values");
    const unsigned warp = current_ - current_ % kWarp;
    if (warp + kWarp > num_threads_) Fail("a warp that is not full exchanges values");
    Fiber& self = fibers_[current_];
    const unsigned turn = self.exchanges++ % 2;
    self.offered[turn] = value;
    Wait(State::kAtWarpBarrier);
    return fibers_[warp + lane].offered[turn];
  }

  unsigned current() const { return current_; }
  std::mt19937_64& random() { return random_; }

 private:
  [[noreturn]] static void Fail(const char* what) {
    std::fprintf(stderr, "emulated kernel, block %u, thread %u: %s\n", blockIdx.x, threadIdx.x,
                 what);
    std::abort();
  }

  static void Main();

  void Resume(unsigned t) {
    current_ = t;
    threadIdx = dim3(t, 0, 0);
#ifdef NIBBLE_ASAN
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, fibers_[t].stack.get(), kStackBytes);
#endif
    swapcontext(&main_, &fibers_[t].context);
#ifdef NIBBLE_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  void Suspend(bool for_good) {
    Fiber& self = fibers_[current_];
#ifdef NIBBLE_ASAN
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack, main_stack_,
                                   main_stack_bytes_);
#else
    static_cast<void>(for_good);
#endif
    swapcontext(&self.context, &main_);
#ifdef NIBBLE_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  // Resumes the threads whose barrier is complete. False when every thread is done.
  bool Release() {
    const auto count = [this](unsigned first, unsigned last, State state) {
      return static_cast<unsigned>(
          std::count_if(fibers_.begin() + first, fibers_.begin() + last,
                        [state](const Fiber& fiber) { return fiber.state == state; }));
    };
    const auto release = [this](unsigned first, unsigned last) {
      for (unsigned t = first; t < last; ++t) fibers_[t].state = State::kRunnable;
    };
    bool released = false;
    for (unsigned first = 0; first < num_threads_; first += kWarp) {
      const unsigned last = std::min(first + kWarp, num_threads_);
      const unsigned waiting = count(first, last, State::kAtWarpBarrier);
      if (waiting == 0) continue;
      if (waiting != last - first) Fail("a part of a warp waits for the rest, which does not come");
      release(first, last);
      released = true;
    }
    if (released) return true;
    const unsigned waiting = count(0, num_threads_, State::kAtBlockBarrier);
    if (waiting == 0) return false;
    if (waiting != num_threads_) Fail("a part of a block waits for the rest, which does not come");
    release(0, num_threads_);
    return true;
  }

  ucontext_t main_;
  const void* main_stack_ = nullptr;  // of the test itself, as AddressSanitizer told it
  size_t main_stack_bytes_ = 0;
  std::vector<Fiber> fibers_;
  const std::function<void()>* thread_ = nullptr;
  unsigned num_threads_ = 0;
  unsigned current_ = 0;
  std::mt19937_64 random_;
};

Block& TheBlock() {
  static Block block;
  return block;
}

void Block::Main() {
  Block& block = TheBlock();
#ifdef NIBBLE_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &block.main_stack_, &block.main_stack_bytes_);
#endif
  (*block.thread_)();
  block.fibers_[block.current_].state = State::kDone;
  block.Suspend(true);
}

}  // namespace

void SetOrderSeed(uint64_t seed) { TheBlock().random().seed(seed); }

void RunGrid(dim3 grid, dim3 block, const std::function<void()>& thread) {
  gridDim = grid;
  blockDim = block;
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = dim3(x, y, 0);
      TheBlock().Run(block.x, thread);
    }
  }
}

void WaitForBlock() { TheBlock().Wait(State::kAtBlockBarrier); }

uint64_t Exchange(unsigned mask, uint64_t value, unsigned lane) {
  return TheBlock().Exchange(mask, value, lane);
}

unsigned LaneIndex() { return TheBlock().current() % kWarp; }

}  // namespace nibble::cuda::emulator
