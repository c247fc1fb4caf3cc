#include "base/interrupt.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "nibble/error.h"

namespace nibble {
namespace {

// In a child process: the flag is the one global of the program.
int FlagAfter(int signal_number) {
  InstallInterruptHandler();
  ThrowIfInterrupted();
  if (Interrupted()) return 1;
  ::raise(signal_number);
  if (!Interrupted()) return 2;
  try {
    ThrowIfInterrupted();
  } catch (const Error& error) {
    return error.code() == ErrorCode::kInterrupted ? 0 : 3;
  }
  return 4;
}

TEST(Interrupt, SetsAFlagOnTheFirstSignal) {
  EXPECT_EXIT(::_exit(FlagAfter(SIGINT)), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(::_exit(FlagAfter(SIGTERM)), ::testing::ExitedWithCode(0), "");
}

TEST(Interrupt, KillsOnTheSecondSignal) {
  const auto twice = [] {
    FlagAfter(SIGINT);
    ::raise(SIGTERM);
    ::_exit(0);
  };
  EXPECT_EXIT(twice(), ::testing::KilledBySignal(SIGTERM), "");
}

}  // namespace
}  // namespace nibble
