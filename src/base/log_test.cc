#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::ContainsRegex;

class LogTest : public ::testing::Test {
 protected:
  ~LogTest() override { SetLogLevel(before_); }

  template <typename Action>
  static std::string Printed(Action action) {
    ::testing::internal::CaptureStderr();
    action();
    return ::testing::internal::GetCapturedStderr();
  }

 private:
  LogLevel before_ = GetLogLevel();
};

TEST_F(LogTest, WritesOneLineWithTimeAndLevel) {
  SetLogLevel(LogLevel::kInfo);
  EXPECT_THAT(Printed([] { LogInfo("loaded tensors={} seconds={:.1f}", 127, 0.25); }),
              ContainsRegex("^[0-9:.]+ info loaded tensors=127 seconds=0.2\n$"));
}

TEST_F(LogTest, KeepsQuietBelowItsLevel) {
  for (const LogLevel level :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError, LogLevel::kOff}) {
    SetLogLevel(level);
    EXPECT_EQ(GetLogLevel(), level);
    EXPECT_EQ(Printed([] { LogDebug("x"); }).empty(), level > LogLevel::kDebug);
    EXPECT_EQ(Printed([] { LogInfo("x"); }).empty(), level > LogLevel::kInfo);
    EXPECT_EQ(Printed([] { LogWarning("x"); }).empty(), level > LogLevel::kWarning);
    EXPECT_EQ(Printed([] { Log(LogLevel::kError, "x"); }).empty(), level > LogLevel::kError);
  }
}

TEST_F(LogTest, TakesBracesInALineAsTheyAre) {
  SetLogLevel(LogLevel::kInfo);
  EXPECT_THAT(Printed([] { Log(LogLevel::kInfo, "name={} %s"); }), ContainsRegex("name=\\{\\} %s"));
}

}  // namespace
}  // namespace nibble
