#include "text/bridge_call.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace nibble {
namespace {

TEST(BridgeCall, ReturnsWhatTheCallReturns) {
  EXPECT_EQ(BridgeCall("x", [] { return 7; }), 7);
}

TEST(BridgeCall, TurnsTheKindOfFailureIntoACode) {
  const auto code_of = [](const char* thrown) {
    try {
      BridgeCall("a.json", [&]() -> int { throw std::runtime_error(thrown); });
    } catch (const Error& error) {
      return std::pair(error.code(), std::string(error.what()));
    }
    return std::pair(ErrorCode::kInternal, std::string("nothing thrown"));
  };
  EXPECT_EQ(code_of("data:odd"), std::pair(ErrorCode::kInvalidData, std::string("a.json: odd")));
  EXPECT_EQ(code_of("unsupported:odd").first, ErrorCode::kUnsupported);
  EXPECT_EQ(code_of("not-found:odd").first, ErrorCode::kNotFound);
  EXPECT_EQ(code_of("argument:odd").first, ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of("io:odd").first, ErrorCode::kIo);
  EXPECT_EQ(code_of("something else"),
            std::pair(ErrorCode::kInternal, std::string("a.json: something else")));
}

TEST(BridgeCall, TextThatRustCannotTakeIsBadData) {
  try {
    BridgeCall("a.txt",
               []() -> int { throw std::invalid_argument("data for rust::Str is not utf-8"); });
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
    EXPECT_STREQ(error.what(), "a.txt: not valid UTF-8");
  }
}

TEST(BridgeCall, LeavesBackquotesToOurOwnMessages) {
  EXPECT_STREQ(BridgeError("a.json", "data:missing field `text`").what(),
               "a.json: missing field \"text\"");
}

TEST(BridgeCall, ShortensLongMessagesBetweenCharacters) {
  std::string thrown = "data:";
  for (int i = 0; i < 1000; ++i) thrown += "é";
  const std::string message = BridgeError("x", thrown).what();
  EXPECT_EQ(message.size(), 3 + 500u);
}

}  // namespace
}  // namespace nibble
