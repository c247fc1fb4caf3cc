#include "base/interrupt.h"

#include <signal.h>

#include <atomic>

#include "nibble/error.h"

namespace nibble {
namespace {

// A signal handler has no argument to carry state in: the one global of the program.
std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);

void OnSignal(int signal_number) {
  if (interrupted.exchange(true)) {
    ::signal(signal_number, SIG_DFL);
    ::raise(signal_number);  // delivered when this handler returns
  }
}

}  // namespace

void InstallInterruptHandler() {
  struct sigaction action{};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  // Without SA_RESTART a blocked read returns, so that its caller can look at the flag.
  action.sa_flags = 0;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool Interrupted() { return interrupted.load(std::memory_order_relaxed); }

void ThrowIfInterrupted() {
  if (Interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted by a signal");
}

}  // namespace nibble
