#include "cli/output.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::ExitedWithCode;
using ::testing::KilledBySignal;

// In a child process: `stdout` becomes `descriptor`, a result is printed, and the status is that of
// the error.
template <typename Act>
void PrintTo(int descriptor, Act&& act) {
  ::dup2(descriptor, STDOUT_FILENO);
  try {
    act();
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::_Exit(error.code() == ErrorCode::kResourceExhausted ? 4 : 1);
  }
  std::_Exit(0);
}

void PrintALine() {
  Print("{} tokens\n", 7);
  FlushOutput();
}

TEST(OutputDeathTest, AFullDiskIsAnErrorHoweverMuchIsPrinted) {
  const int full = ::open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  EXPECT_EXIT(PrintTo(full, PrintALine), ExitedWithCode(4), "stdout.*No space left");
  // More than the buffer holds, so that the write itself fails.
  EXPECT_EXIT(PrintTo(full, [] { PrintText(std::string(1 << 20, 'x')); }), ExitedWithCode(4),
              "stdout.*No space left");
  EXPECT_EXIT(PrintTo(full,
                      [] {
                        PrintJson({{"text", std::string(1 << 20, 'x')}});
                        FlushOutput();
                      }),
              ExitedWithCode(4), "stdout.*No space left");
  ::close(full);
}

TEST(OutputDeathTest, AReaderThatIsGoneEndsTheProcessQuietly) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::close(ends[0]);
  for (const auto handler : {SIG_DFL, SIG_IGN}) {
    EXPECT_EXIT(
        {
          ::signal(SIGPIPE, handler);
          PrintTo(ends[1], PrintALine);
        },
        KilledBySignal(SIGPIPE), "^$");
  }
  ::close(ends[1]);
}

TEST(OutputDeathTest, AClosedStreamRefusesWhatIsPrintedAndIsNotAnotherFile) {
  EXPECT_EXIT(
      {
        ::close(STDOUT_FILENO);
        OpenStandardStreams();
        // Would be descriptor 1, and get the result.
        const int other = ::open("/dev/null", O_WRONLY);
        if (other == STDOUT_FILENO) std::_Exit(99);
        PrintTo(STDOUT_FILENO, PrintALine);
      },
      ExitedWithCode(1), "stdout.*Bad file descriptor");
  EXPECT_EXIT(
      {
        for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO}) ::close(descriptor);
        OpenStandardStreams();
        char byte = 0;
        std::_Exit(::read(STDIN_FILENO, &byte, 1) == -1 ? 7 : 0);
      },
      ExitedWithCode(7), "");
}

TEST(OutputDeathTest, JsonTakesBytesThatAreNotUtf8) {
  EXPECT_EXIT(PrintTo(STDERR_FILENO,
                      [] {
                        PrintJson({{"file", "a\xff.txt"}});
                        FlushOutput();
                      }),
              ExitedWithCode(0), "\"a\xEF\xBF\xBD.txt\"");
}

TEST(TextTable, AlignsNumbersToTheRightAndWordsToTheLeft) {
  TextTable table({"model", "perplexity"});
  table.AddRow({"original", "73.36"});
  table.AddRow({"int4", "174.04"});
  EXPECT_EQ(table.ToString(),
            "model     perplexity\n"
            "--------  ----------\n"
            "original       73.36\n"
            "int4          174.04\n");
}

}  // namespace
}  // namespace nibble
