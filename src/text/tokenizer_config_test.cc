#include "text/tokenizer_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class TokenizerConfigTest : public ::testing::Test {
 protected:
  TokenizerConfig Read(const std::string& config, const std::string& map = "") {
    WriteTextFile(folder_ / "tokenizer_config.json", config);
    if (!map.empty()) WriteTextFile(folder_ / "special_tokens_map.json", map);
    return ReadTokenizerConfig(folder_);
  }

  testing::TemporaryDirectory temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(TokenizerConfigTest, AMissingFileSaysNothing) {
  const TokenizerConfig config = ReadTokenizerConfig(folder_);
  EXPECT_EQ(config.tokenizer_class, "");
  EXPECT_EQ(config.add_bos_token, std::nullopt);
  EXPECT_TRUE(config.special_tokens.empty());
  EXPECT_TRUE(config.added_tokens.empty());
  EXPECT_TRUE(config.chat_template.is_null());
}

TEST_F(TokenizerConfigTest, ReadsTokensAsStringsOrObjects) {
  const TokenizerConfig config = Read(R"({
      "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": false},
      "eos_token": "</s>", "pad_token": null, "additional_special_tokens": ["<a>", {"content": "<b>"}],
      "add_bos_token": false, "legacy": null})");
  EXPECT_EQ(config.SpecialToken("bos_token"), "<s>");
  EXPECT_EQ(config.SpecialToken("eos_token"), "</s>");
  EXPECT_EQ(config.SpecialToken("pad_token"), std::nullopt);
  EXPECT_EQ(config.special_tokens["additional_special_tokens"], Json::parse(R"(["<a>", "<b>"])"));
  EXPECT_EQ(config.add_bos_token, false);
  EXPECT_EQ(config.legacy, std::nullopt);
  ASSERT_EQ(config.added_tokens.size(), 4u);
  EXPECT_TRUE(config.added_tokens[3].special);
}

TEST_F(TokenizerConfigTest, AddedTokensComeInOrderOfTheirIds) {
  const TokenizerConfig config = Read(R"({"added_tokens_decoder": {
      "10": {"content": "b", "special": true}, "9": {"content": "a", "rstrip": true}}})");
  ASSERT_EQ(config.added_tokens.size(), 2u);
  EXPECT_EQ(config.added_tokens[0].content, "a");
  EXPECT_TRUE(config.added_tokens[0].rstrip && config.added_tokens[0].normalized);
  EXPECT_TRUE(config.added_tokens[1].special && !config.added_tokens[1].normalized);
}

TEST_F(TokenizerConfigTest, TheMapCountsOnlyWhereTheConfigNamesNoTokens) {
  const char* map = R"({"bos_token": "[B]", "eos_token": {"content": "[E]"}})";
  EXPECT_EQ(Read(R"({"add_bos_token": true})", map).SpecialToken("eos_token"), "[E]");
  EXPECT_EQ(Read(R"({"bos_token": null})", map).SpecialToken("eos_token"), std::nullopt);
}

TEST_F(TokenizerConfigTest, TheLlamaFamilyHasTokensByDefault) {
  const TokenizerConfig config =
      Read(R"({"tokenizer_class": "LlamaTokenizer", "eos_token": null})");
  EXPECT_TRUE(config.IsLlamaFamily());
  EXPECT_EQ(config.SpecialToken("bos_token"), "<s>");
  EXPECT_EQ(config.SpecialToken("eos_token"), std::nullopt);
  EXPECT_FALSE(Read(R"({"tokenizer_class": "GPT2Tokenizer"})").IsLlamaFamily());
}

TEST_F(TokenizerConfigTest, OlderCheckpointsListAddedTokensInAFileOfTheirOwn) {
  WriteTextFile(folder_ / "added_tokens.json", R"({"<b>": 11, "a": 10})");
  TokenizerConfig config = Read(R"({"eos_token": "<b>"})");
  ASSERT_EQ(config.added_tokens.size(), 3u);  // in order of the ids, then the special tokens
  EXPECT_EQ(config.added_tokens[0].content, "a");
  EXPECT_EQ(config.added_tokens[0].id, 10);
  EXPECT_FALSE(config.added_tokens[0].normalized || config.added_tokens[0].special);
  EXPECT_EQ(config.added_tokens[1].id, 11);
  EXPECT_TRUE(config.added_tokens[1].special && !config.added_tokens[1].normalized);
  config = Read(R"({"added_tokens_decoder": {"5": {"content": "c"}}})");  // the newer place wins
  ASSERT_EQ(config.added_tokens.size(), 1u);
  EXPECT_EQ(config.added_tokens[0].content, "c");
  EXPECT_EQ(config.added_tokens[0].id, std::nullopt);
}

TEST_F(TokenizerConfigTest, ErrorsNameFileAndKey) {
  const auto message = [&](const std::string& config) -> std::string {
    try {
      Read(config);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
      return error.what();
    }
    return "nothing thrown";
  };
  EXPECT_THAT(message("[]"), HasSubstr("tokenizer_config.json: expected an object"));
  EXPECT_THAT(message(R"({"add_bos_token": "yes"})"), HasSubstr("add_bos_token: expected true or"));
  EXPECT_THAT(message(R"({"bos_token": 5})"), HasSubstr("bos_token"));
  EXPECT_THAT(message(R"({"added_tokens_decoder": {"x": "a"}})"),
              HasSubstr("x: expected a token id"));
  WriteTextFile(folder_ / "added_tokens.json", R"({"<b>": -1})");
  EXPECT_THAT(message("{}"),
              HasSubstr("added_tokens.json: \"<b>\": expected a token id, found -1"));
}

}  // namespace
}  // namespace nibble
