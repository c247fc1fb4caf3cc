#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "base/utf8.h"

namespace nibble {
namespace {

class DetokenizerTest : public ::testing::Test {
 protected:
  DetokenizerTest()
      : tokenizer_(Tokenizer::Load(std::string(NIBBLE_SOURCE_DIR) + "/demo/tinymix")) {}

  // Feeds `text` token by token; checks every delta and returns them joined.
  std::string Stream(const std::string& text, std::vector<std::string> stops,
                     bool* stopped = nullptr) {
    Detokenizer detokenizer(tokenizer_, std::move(stops));
    std::string joined;
    for (const int32_t id : tokenizer_.Encode(text, false)) {
      const std::string delta = detokenizer.Add(id);
      EXPECT_TRUE(IsValidUtf8(delta)) << text;
      joined += delta;
      if (detokenizer.stopped()) break;
    }
    joined += detokenizer.Finish();
    if (stopped != nullptr) *stopped = detokenizer.stopped();
    return joined;
  }

  Tokenizer tokenizer_;
};

TEST_F(DetokenizerTest, DeltasConcatenateToTheWholeText) {
  for (const std::string text :
       {"Once upon a time, there was a nibble.", "a  b   c\n\n\td", "naïve café 🦊🦊 数学", "x",
        " leading and trailing ", "def f(x):\n    return x ** 2\n"}) {
    EXPECT_EQ(Stream(text, {}), tokenizer_.Decode(tokenizer_.Encode(text, false), true));
  }
}

TEST_F(DetokenizerTest, RandomTokensGiveValidDeltas) {
  PythonRandom random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> ids;
    Detokenizer detokenizer(tokenizer_, {});
    std::string joined;
    for (int i = 0; i < 30; ++i) {
      // Mostly byte tokens, which make broken characters likely.
      ids.push_back(
          static_cast<int32_t>(3 + random.NextBelow(random.NextBelow(2) == 0 ? 256 : 4000)));
      const std::string delta = detokenizer.Add(ids.back());
      ASSERT_TRUE(IsValidUtf8(delta));
      joined += delta;
    }
    joined += detokenizer.Finish();
    EXPECT_TRUE(IsValidUtf8(joined));
  }
}

TEST_F(DetokenizerTest, NothingFollowsAStopString) {
  bool stopped = false;
  EXPECT_EQ(Stream("one two three four", {"three"}, &stopped), "one two ");
  EXPECT_TRUE(stopped);
  EXPECT_EQ(Stream("one two three four", {"wo thr"}, &stopped), "one t");
  EXPECT_TRUE(stopped);
}

TEST_F(DetokenizerTest, TheFirstListedStopStringWins) {
  EXPECT_EQ(Stream("alpha beta gamma", {"gamma", "beta"}), "alpha ");
  EXPECT_EQ(Stream("alpha", {"pha", "lp"}), "al");
}

TEST_F(DetokenizerTest, WhatOnlyLookedLikeAStopStringIsReleased) {
  bool stopped = true;
  EXPECT_EQ(Stream("stop stopp stoppe", {"stopped"}, &stopped), "stop stopp stoppe");
  EXPECT_FALSE(stopped);
}

TEST_F(DetokenizerTest, HoldsBackThePrefixOfAStopStringUntilItIsDecided) {
  Detokenizer detokenizer(tokenizer_, {"\n\nQ:"});
  std::string sent;
  for (const int32_t id : tokenizer_.Encode("answer\n\nQ", false)) sent += detokenizer.Add(id);
  EXPECT_EQ(sent, "answer");
  EXPECT_EQ(detokenizer.Finish(), "\n\nQ");
}

}  // namespace
}  // namespace nibble
