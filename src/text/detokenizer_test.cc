#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "base/utf8.h"
#include "nibble/error.h"
#include "tests/support/paths.h"

namespace nibble {
namespace {

class DetokenizerTest : public ::testing::Test {
 protected:
  DetokenizerTest() : tokenizer_(Tokenizer::Load(std::string(kSourceDir) + "/demo/tinymix")) {}

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

// Feeds ids; checks every delta and returns them joined.
std::string Join(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Detokenizer detokenizer(tokenizer, {});
  std::string joined;
  for (const int32_t id : ids) {
    const std::string delta = detokenizer.Add(id);
    EXPECT_TRUE(IsValidUtf8(delta));
    joined += delta;
  }
  joined += detokenizer.Finish();
  EXPECT_TRUE(IsValidUtf8(joined));
  return joined;
}

// The id of the token that stands for a byte, in a SentencePiece vocabulary: after <unk>, <s>,
// </s>.
int32_t ByteToken(unsigned char byte) { return 3 + byte; }

std::vector<int32_t> ByteTokens(const std::string& bytes) {
  std::vector<int32_t> ids;
  for (const char byte : bytes) ids.push_back(ByteToken(static_cast<unsigned char>(byte)));
  return ids;
}

TEST_F(DetokenizerTest, RandomWordsConcatenateToTheWholeText) {
  PythonRandom random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) {
      if (random.NextBelow(8) == 0) {
        for (const int32_t id : ByteTokens(random.NextBelow(2) == 0 ? "🦊" : "é"))
          ids.push_back(id);
      } else if (random.NextBelow(20) == 0) {
        ids.push_back(static_cast<int32_t>(random.NextBelow(3)));  // a special token
      } else {
        ids.push_back(static_cast<int32_t>(259 + random.NextBelow(4096 - 259)));
      }
    }
    EXPECT_EQ(Join(tokenizer_, ids), tokenizer_.Decode(ids, true));
  }
}

TEST_F(DetokenizerTest, RandomBytesGiveValidDeltas) {
  PythonRandom random(3);
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 30; ++i) {
      // Bytes of incomplete and complete characters, and some words.
      const uint64_t kind = random.NextBelow(8);
      if (kind == 0) {
        ids.push_back(static_cast<int32_t>(259 + random.NextBelow(3000)));
      } else if (kind < 3) {
        for (const int32_t id : ByteTokens(kind == 1 ? "é" : "€")) ids.push_back(id);
      } else {
        ids.push_back(ByteToken(static_cast<unsigned char>(random.NextBelow(256))));
      }
    }
    Join(tokenizer_, ids);
  }
}

TEST_F(DetokenizerTest, AByteThatSpoilsARunLeavesWhatIsOut) {
  // Decoding makes all four bytes U+FFFD once the fourth is known not to belong to a character.
  std::vector<int32_t> ids = ByteTokens("é\xC3");
  const int32_t word = tokenizer_.Encode("x", false).at(0);
  ids.push_back(word);
  ASSERT_EQ(tokenizer_.Decode(ids, true).substr(0, 9), "\uFFFD\uFFFD\uFFFD");
  const std::string joined = Join(tokenizer_, ids);
  EXPECT_EQ(joined.substr(0, 5), "é\uFFFD");
  EXPECT_EQ(joined.find("\uFFFD", 5), std::string::npos);
}

TEST_F(DetokenizerTest, CharactersComeWithTheirLastByte) {
  Detokenizer detokenizer(tokenizer_, {});
  const std::vector<int32_t> fox = ByteTokens("🦊");
  EXPECT_EQ(detokenizer.Add(fox[0]), "");
  EXPECT_EQ(detokenizer.Add(fox[1]), "");
  EXPECT_EQ(detokenizer.Add(fox[2]), "");
  EXPECT_EQ(detokenizer.Add(fox[3]), "🦊");
  EXPECT_EQ(detokenizer.Add(fox[0]), "");
  EXPECT_EQ(detokenizer.Finish(), "\uFFFD");
}

TEST_F(DetokenizerTest, SpecialTokensAreShownWhenAsked) {
  Detokenizer shown(tokenizer_, {}, /*skip_special_tokens=*/false);
  EXPECT_EQ(shown.Add(1), "<s>");
  Detokenizer hidden(tokenizer_, {});
  EXPECT_EQ(hidden.Add(1), "");
  EXPECT_EQ(hidden.Finish(), "");
}

// The slow twin of the stop rule: cut the whole text after the fact.
TEST_F(DetokenizerTest, StopStringsCutAsIfTheWholeTextWereKnown) {
  PythonRandom random(11);
  const std::string alphabet = "ab \n";
  const auto word = [&](uint64_t length) {
    std::string text;
    while (length-- > 0) text += alphabet[random.NextBelow(alphabet.size())];
    return text;
  };
  for (int round = 0; round < 500; ++round) {
    std::string text = "x";
    text += word(1 + random.NextBelow(30));
    const std::string stop = word(1 + random.NextBelow(4));
    bool stopped = false;
    const std::string streamed = Stream(text, {stop}, &stopped);
    const size_t at = text.find(stop);
    EXPECT_EQ(stopped, at != std::string::npos);
    EXPECT_EQ(streamed, text.substr(0, at)) << "stop: " << stop;
  }
}

TEST_F(DetokenizerTest, EndlessGarbageIsNotHeldBackForEver) {
  Detokenizer detokenizer(tokenizer_, {});
  std::string joined;
  for (int i = 0; i < 1000; ++i) joined += detokenizer.Add(ByteToken(0xFF));
  EXPECT_GT(joined.size(), 3 * 950u);
  joined += detokenizer.Finish();
  EXPECT_EQ(joined.size(), 3 * 1000u);
}

TEST_F(DetokenizerTest, AnEmptyStopStringIsRefused) {
  EXPECT_THROW(Detokenizer(tokenizer_, {"ok", ""}), Error);
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
