#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <sstream>
#include <thread>

#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "nibble/error.h"
#include "tests/support/paths.h"
#include "tests/support/reference_data.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nibble::testing::ReferenceData;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

const fs::path kDemo = fs::path(kSourceDir) / "demo/tinymix";
const fs::path kGolden = fs::path(kSourceDir) / "tests/golden";

// A new empty folder for this test.
fs::path EmptyFolder() {
  static testing::TemporaryDirectory all;
  static int count = 0;
  const fs::path folder = all.path() / std::to_string(count++);
  fs::create_directories(folder);
  return folder;
}

template <typename Call>
std::string MessageOf(ErrorCode code, Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "nothing thrown";
}

std::string Digest(const Ids& ids) { return Sha256(std::as_bytes(std::span(ids))); }

std::vector<std::string> Split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (true) {
    const size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + separator.size();
  }
}

TEST(Tokenizer, EncodesTheDemoModelsText) {
  const Tokenizer tokenizer = Tokenizer::Load(kDemo);
  EXPECT_EQ(tokenizer.vocab_size(), 4096);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.Encode("Hello, world!", true), (Ids{1, 367, 2586, 4020, 1294, 4086}));
  EXPECT_EQ(tokenizer.Encode("Hello, world!", false), (Ids{367, 2586, 4020, 1294, 4086}));
  EXPECT_EQ(tokenizer.Encode("", true), Ids{1});
  EXPECT_EQ(tokenizer.Encode("", false), Ids{});
  EXPECT_EQ(tokenizer.Decode({}, true), "");
}

TEST(Tokenizer, KnowsItsTokens) {
  const Tokenizer tokenizer = Tokenizer::Load(kDemo);
  EXPECT_EQ(tokenizer.TokenToId("</s>"), 2);
  EXPECT_EQ(tokenizer.TokenToId("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.TokenToId("\xff"), std::nullopt);
  EXPECT_EQ(tokenizer.IdToToken(1), "<s>");
  EXPECT_EQ(tokenizer.IdToToken(-1), std::nullopt);
  EXPECT_EQ(tokenizer.IdToToken(4096), std::nullopt);
  EXPECT_TRUE(tokenizer.IsSpecial(0) && tokenizer.IsSpecial(1) && tokenizer.IsSpecial(2));
  EXPECT_FALSE(tokenizer.IsSpecial(3) || tokenizer.IsSpecial(-1));
}

TEST(Tokenizer, SpecialTokensAreShownOnlyWhenAsked) {
  const Tokenizer tokenizer = Tokenizer::Load(kDemo);
  const Ids ids = tokenizer.Encode("Hello", true);
  EXPECT_EQ(tokenizer.Decode(ids, true), "Hello");
  EXPECT_EQ(tokenizer.Decode(ids, false), "<s> Hello");
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreSkipped) {
  const Tokenizer tokenizer = Tokenizer::Load(kDemo);
  EXPECT_EQ(tokenizer.Decode(Ids{367, 2586, -5, 999999, 4020}, true),
            tokenizer.Decode(Ids{367, 2586, 4020}, true));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = Tokenizer::Load(kDemo);
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidArgument, [&] { tokenizer.Encode("ab\xc3(", false); }),
              HasSubstr("not valid UTF-8 at byte 2"));
}

TEST(Tokenizer, IsSharedByThreads) {
  const Tokenizer tokenizer = Tokenizer::Load(kDemo);
  const std::string text = "Once upon a time there were many words, naïve ones: 数学 and 🦊.";
  const Ids expected = tokenizer.Encode(text, true);
  std::vector<std::jthread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        const Ids ids = tokenizer.Encode(text, true);
        if (ids != expected || tokenizer.Decode(ids, true) != text) ++wrong;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, ConvertedModelEqualsItsJsonFile) {
  const Tokenizer converted = Tokenizer::LoadFile(kDemo / "tokenizer.model");
  const Tokenizer json = Tokenizer::LoadFile(kDemo / "tokenizer.json");
  const std::string text = ReadTextFile(fs::path(kSourceDir) / "demo/evaluation.txt");
  EXPECT_EQ(converted.vocab_size(), json.vocab_size());
  EXPECT_EQ(converted.Encode(text, true), json.Encode(text, true));
  for (int32_t id = 0; id < json.vocab_size(); ++id) {
    ASSERT_EQ(converted.IdToToken(id), json.IdToToken(id));
  }
}

// --- goldens recorded by tools/record_tokenizers.py ---

// Puts the model directory of a recorded setup together.
fs::path Build(const Json& files) {
  const fs::path folder = EmptyFolder();
  for (const auto& [name, source] : files.items()) {
    const std::string from = source.get<std::string>();
    if (from.starts_with("text:")) {
      WriteTextFile(folder / name, from.substr(5));
    } else if (from.starts_with("golden:")) {
      fs::copy_file(kGolden / from.substr(7), folder / name);
    } else {
      fs::create_symlink(ReferenceData() / from, folder / name);
    }
  }
  return folder;
}

void ExpectAsRecorded(const Json& golden, const Json& setup) {
  const Tokenizer tokenizer = Tokenizer::Load(Build(setup["files"]));
  for (size_t i = 0; i < golden["lines"].size(); ++i) {
    SCOPED_TRACE(golden["lines"][i].dump());
    const Ids expected = setup["ids"][i].get<Ids>();
    EXPECT_EQ(tokenizer.Encode(golden["lines"][i].get<std::string>(), true), expected);
    EXPECT_EQ(tokenizer.Decode(expected, true), setup["text"][i].get<std::string>());
    EXPECT_EQ(tokenizer.Decode(expected, false), setup["text_with_special"][i].get<std::string>());
  }
  for (const Json& id : setup["special"]) EXPECT_TRUE(tokenizer.IsSpecial(id.get<int32_t>())) << id;
}

TEST(TokenizerGolden, UnigramModelEqualsTransformers) {
  const Json golden = ReadJsonFile((kGolden / "tokenizers.json").string());
  ExpectAsRecorded(golden, golden["setups"]["unigram"]);
}

TEST(TokenizerGolden, EveryDirectoryEqualsTransformers) {
  NIBBLE_REQUIRE_REFERENCE("tokenizers");
  const Json golden = ReadJsonFile((kGolden / "tokenizers.json").string());
  for (const auto& [name, setup] : golden["setups"].items()) {
    SCOPED_TRACE(name);
    ExpectAsRecorded(golden, setup);
  }
}

TEST(TokenizerGolden, WikiTextEqualsTheRecordedIds) {
  NIBBLE_REQUIRE_REFERENCE("golden/tinymix/perplexity.json");
  const Json golden = ReadJsonFile((ReferenceData() / "golden/tinymix/perplexity.json").string());
  const Json& test = golden.contains("test") ? golden["test"] : golden;
  const std::string text = ReadTextFile(ReferenceData() / "text/wikitext-2-raw/wiki.test.raw");
  for (const char* file : {"tokenizer.json", "tokenizer.model"}) {
    const Tokenizer tokenizer = Tokenizer::LoadFile(ReferenceData() / "models/tinymix" / file);
    const Ids ids = tokenizer.Encode(text, false);
    EXPECT_EQ(ids.size(), 414694u);
    EXPECT_EQ(Digest(ids), test["ids_sha256_int32_le"].get<std::string>());
    EXPECT_EQ(tokenizer.Decode(ids, true), text);
  }
}

TEST(TokenizerGolden, PromptsEqualTheRecordedIds) {
  NIBBLE_REQUIRE_REFERENCE("golden/tinymix/prompts.json");
  const Tokenizer tokenizer = Tokenizer::Load(ReferenceData() / "models/tinymix");
  const Json prompts = ReadJsonFile((ReferenceData() / "golden/tinymix/prompts.json").string());
  int count = 0;
  for (const Json& prompt : prompts.is_array() ? prompts : prompts["prompts"]) {
    EXPECT_EQ(tokenizer.Encode(prompt["text"].get<std::string>(), true), prompt["ids"].get<Ids>());
    ++count;
  }
  EXPECT_EQ(count, 12);
}

// llama.cpp's own vocabulary tests: texts and ids, without special tokens.
TEST(TokenizerGolden, VocabularyTestsEqualLlamaCpp) {
  NIBBLE_REQUIRE_REFERENCE("golden/ggml_vocab");
  const fs::path gpt2 = Build({{"vocab.json", "tokenizers/gpt2/gpt2_vocab.json"},
                               {"merges.txt", "tokenizers/gpt2/gpt2_merges.txt"}});
  const fs::path tokenizers = ReferenceData() / "tokenizers";
  const std::vector<std::pair<const char*, Tokenizer>> cases = [&] {
    std::vector<std::pair<const char*, Tokenizer>> list;
    list.emplace_back("llama-spm", Tokenizer::LoadFile(tokenizers / "llama2/tokenizer.model"));
    list.emplace_back("llama-spm", Tokenizer::Load(tokenizers / "llama2"));
    list.emplace_back("phi-3", Tokenizer::Load(tokenizers / "phi-3-mini"));
    list.emplace_back("falcon", Tokenizer::Load(tokenizers / "falcon-tokenizer"));
    list.emplace_back("gpt-2", Tokenizer::Load(gpt2));
    return list;
  }();
  for (const auto& [name, tokenizer] : cases) {
    const std::string stem = "golden/ggml_vocab/ggml-vocab-" + std::string(name) + ".gguf";
    const std::vector<std::string> texts =
        Split(ReadTextFile(ReferenceData() / (stem + ".inp")), "\n__ggml_vocab_test__\n");
    const std::vector<std::string> lines =
        Split(ReadTextFile(ReferenceData() / (stem + ".out")), "\n");
    ASSERT_EQ(texts.size(), lines.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      std::istringstream line(lines[i]);
      const Ids expected{std::istream_iterator<int32_t>(line), {}};
      EXPECT_EQ(tokenizer.Encode(texts[i], false), expected) << name << ": " << texts[i];
    }
  }
}

TEST(TokenizerGolden, ConvertedModelsEqualTheirJsonFilesOnRunningText) {
  NIBBLE_REQUIRE_REFERENCE("tokenizers");
  std::string text = ReadTextFile(ReferenceData() / "text/wikitext-2-raw/wiki.test.raw");
  text.resize(text.find('\n', 300'000));  // the whole takes too long for six tokenizers
  const fs::path tokenizers = ReferenceData() / "tokenizers";
  const std::vector<std::string> lines = Split(text, "\n");
  const auto expect_equal = [&](const Tokenizer& a, const Tokenizer& b) {
    EXPECT_EQ(Digest(a.Encode(text, true)), Digest(b.Encode(text, true)));
    for (size_t i = 0; i < lines.size(); i += 3) {
      ASSERT_EQ(a.Encode(lines[i], true), b.Encode(lines[i], true)) << lines[i];
    }
  };
  expect_equal(Tokenizer::LoadFile(tokenizers / "mistral/tokenizer.model.v1"),
               Tokenizer::LoadFile(tokenizers / "mistral/hf_tokenizer_mistral7b_v0.2_chat.json"));
  expect_equal(Tokenizer::LoadFile(tokenizers / "llama2/tokenizer.model"),
               Tokenizer::Load(tokenizers / "llama2"));
  const Tokenizer converted = Tokenizer::Load(
      Build({{"tokenizer.model", "tokenizers/mistral/tokenizer.model.v1"},
             {"tokenizer_config.json", "tokenizers/mistral/hf_tokenizer_config_v1.json"}}));
  expect_equal(converted, Tokenizer::LoadFile(tokenizers / "mistral/hf_tokenizer_v1.json"));
}

// --- files that are no tokenizers ---

TEST(TokenizerErrors, NameWhatIsMissing) {
  const fs::path folder = EmptyFolder();
  EXPECT_THAT(MessageOf(ErrorCode::kNotFound, [&] { Tokenizer::Load(folder); }),
              HasSubstr("no tokenizer; expected tokenizer.json"));
  EXPECT_THAT(MessageOf(ErrorCode::kNotFound, [&] { Tokenizer::Load(folder / "absent"); }),
              HasSubstr("absent"));
  EXPECT_THAT(
      MessageOf(ErrorCode::kNotFound, [&] { Tokenizer::LoadFile(folder / "tokenizer.json"); }),
      HasSubstr("tokenizer.json"));
}

TEST(TokenizerErrors, NameTheFormatsThatAreNotRead) {
  const fs::path folder = EmptyFolder();
  WriteTextFile(folder / "tokenizer.model", "IQ== 0\nIg== 1\n");
  EXPECT_THAT(MessageOf(ErrorCode::kUnsupported, [&] { Tokenizer::Load(folder); }),
              HasSubstr("tokenizer.model: a tiktoken vocabulary"));
  fs::remove(folder / "tokenizer.model");
  WriteTextFile(folder / "tekken.json", R"({"config": {}, "vocab": []})");
  EXPECT_THAT(MessageOf(ErrorCode::kUnsupported, [&] { Tokenizer::Load(folder); }),
              HasSubstr("does not read Tekken"));
  EXPECT_THAT(
      MessageOf(ErrorCode::kUnsupported, [&] { Tokenizer::LoadFile(folder / "tekken.json"); }),
      HasSubstr("Tekken"));
  fs::remove(folder / "tekken.json");
  WriteTextFile(folder / "qwen.tiktoken", "IQ== 0\n");
  EXPECT_THAT(MessageOf(ErrorCode::kUnsupported, [&] { Tokenizer::Load(folder); }),
              HasSubstr("does not read tiktoken"));
}

TEST(TokenizerErrors, NameTheDamagedFile) {
  const fs::path folder = EmptyFolder();
  const fs::path json = folder / "tokenizer.json";
  for (const char* text :
       {"", "{", "[]", "{}", "null", R"({"model": {"type": "BPE"}})",
        R"({"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}})"}) {
    WriteTextFile(json, text);
    EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { Tokenizer::Load(folder); }),
                HasSubstr("tokenizer.json: not a tokenizer.json"))
        << text;
  }
  WriteTextFile(json,
                R"({"version":"1.0","model":{"type":"BPE","vocab":{"a":4000000000},"merges":[]}})");
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { Tokenizer::Load(folder); }),
              HasSubstr("has id 4000000000"));
  std::string demo = ReadTextFile(kDemo / "tokenizer.json");
  const std::string ids = "\"ids\":";
  const size_t begin = demo.find(ids);
  ASSERT_NE(begin, std::string::npos);
  demo.replace(demo.find('1', begin), 1, "5555");
  WriteTextFile(json, demo);
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { Tokenizer::Load(folder); }),
              HasSubstr("the post_processor adds id 5555"));
}

TEST(TokenizerErrors, ATruncatedModelIsRefusedAtEveryLength) {
  const fs::path file = EmptyFolder() / "tokenizer.model";
  const std::string whole = ReadTextFile(kGolden / "unigram.model");
  int refused = 0;
  for (size_t length = 0; length < whole.size(); length += 101) {
    WriteTextFile(file, whole.substr(0, length));
    try {
      Tokenizer::LoadFile(file);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("tokenizer.model: "));
      ++refused;
    }
  }
  EXPECT_GT(refused, 45);  // a cut between two pieces leaves a smaller model without its settings
}

TEST(TokenizerErrors, ASpecialTokenTheVocabularyLacksIsAdded) {
  const fs::path folder = EmptyFolder();
  fs::copy_file(kDemo / "tokenizer.json", folder / "tokenizer.json");
  WriteTextFile(folder / "tokenizer_config.json",
                R"({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|done|>"})");
  const Tokenizer tokenizer = Tokenizer::Load(folder);
  EXPECT_EQ(tokenizer.eos_id(), 4096);
  EXPECT_EQ(tokenizer.vocab_size(), 4097);
  EXPECT_TRUE(tokenizer.IsSpecial(4096));
  EXPECT_EQ(tokenizer.Encode("Hello<|done|>", false), (Ids{367, 2586, 4096}));
}

// The ids are those of LlamaTokenizer, transformers 4.57.6, on the same folder.
TEST(Tokenizer, AddedTokensOfAnOlderCheckpointAreKnown) {
  const fs::path folder = EmptyFolder();
  fs::copy_file(kDemo / "tokenizer.model", folder / "tokenizer.model");
  WriteTextFile(folder / "tokenizer_config.json",
                R"({"tokenizer_class": "LlamaTokenizer", "eos_token": "<|im_end|>"})");
  WriteTextFile(folder / "added_tokens.json", R"({"<|im_end|>": 4096, "<tool>": 4097})");
  const Tokenizer tokenizer = Tokenizer::Load(folder);
  EXPECT_EQ(tokenizer.vocab_size(), 4098);
  EXPECT_EQ(tokenizer.eos_id(), 4096);
  EXPECT_TRUE(tokenizer.IsSpecial(4096) && !tokenizer.IsSpecial(4097));
  EXPECT_EQ(tokenizer.Encode("x<|im_end|>y<tool>", true), (Ids{1, 589, 4096, 344, 4097}));
  EXPECT_EQ(tokenizer.Encode("x<tool>y", true), (Ids{1, 589, 4097, 344}));
  EXPECT_EQ(tokenizer.Encode("x <tool> y", true), (Ids{1, 589, 3998, 4097, 297, 4017}));

  WriteTextFile(folder / "added_tokens.json", R"({"<|im_end|>": 4099})");
  EXPECT_THAT(MessageOf(ErrorCode::kInvalidData, [&] { Tokenizer::Load(folder); }),
              HasSubstr("\"<|im_end|>\" has id 4096 here, but 4099 in added_tokens.json"));
}

TEST(Tokenizer, SeesASecondBosAndWarnsOnce) {
  const Tokenizer tokenizer = Tokenizer::Load(kDemo);
  EXPECT_TRUE(tokenizer.BeginsWithTwoBos(tokenizer.Encode("<s>Hi", true)));
  EXPECT_FALSE(tokenizer.BeginsWithTwoBos(tokenizer.Encode("<s>Hi", false)));
  EXPECT_FALSE(tokenizer.BeginsWithTwoBos(tokenizer.Encode("Hi<s>", true)));
  EXPECT_FALSE(tokenizer.BeginsWithTwoBos(Ids{1}));
  ::testing::internal::CaptureStderr();
  WarnOfTwoBos("rows.jsonl", 0, 7);
  WarnOfTwoBos("rows.jsonl", 3, 7);
  const std::string warnings = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(warnings, HasSubstr("warning two_bos source=\"rows.jsonl\" texts=3 of=7 "));
  EXPECT_EQ(std::count(warnings.begin(), warnings.end(), '\n'), 1);
}

}  // namespace
}  // namespace nibble
