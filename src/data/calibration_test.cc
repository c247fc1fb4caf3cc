#include "data/calibration.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <span>

#include "base/file.h"
#include "nibble/error.h"
#include "tests/support/paths.h"
#include "tests/support/reference_data.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

const fs::path kRows = fs::path(kSourceDir) / "tests/golden/rows";

class CalibrationTest : public ::testing::Test {
 protected:
  CalibrationSet Load(const CalibrationOptions& options, const ChatTemplate* chat = nullptr) {
    return LoadCalibration(options, tokenizer_, chat, tokenizer_.vocab_size());
  }

  std::string Message(ErrorCode code, const CalibrationOptions& options,
                      const ChatTemplate* chat = nullptr) {
    try {
      Load(options, chat);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "nothing thrown";
  }

  // A file of these rows, all of them taken in order.
  CalibrationOptions AllOf(const std::string& lines) {
    const fs::path path = folder_ / "rows.jsonl";
    WriteTextFile(path, lines);
    return {
        .path = path, .samples = std::count(lines.begin(), lines.end(), '\n'), .shuffle = false};
  }

  std::vector<std::string> Texts(const CalibrationSet& set) {
    std::vector<std::string> texts;
    for (const auto& ids : set.sequences) texts.push_back(tokenizer_.Decode(ids, false));
    return texts;
  }

  testing::TemporaryDirectory temporary_;
  const fs::path folder_ = temporary_.path();
  Tokenizer tokenizer_ = Tokenizer::Load(fs::path(kSourceDir) / "demo/tinymix");
};

TEST_F(CalibrationTest, JoinsPlatypusRowsBehindBos) {
  const CalibrationSet set = Load(AllOf(
      "{\"input\": \"no\", \"instruction\": \"a?\", \"output\": \"b\"}\n{\"text\": \"plain\"}\n"
      "{\"instruction\": \"\", \"output\": \"c\"}\n"));
  EXPECT_THAT(Texts(set), ElementsAre("<s> a?\nb", "<s> plain", "<s> \nc"));
  EXPECT_THAT(set.rows, ElementsAre(0, 1, 2));
}

TEST_F(CalibrationTest, WarnsOfRowsThatBringABosAlong) {
  const CalibrationOptions options =
      AllOf("{\"text\": \"<s> a\"}\n{\"text\": \"b\"}\n{\"text\": \"<s>c\"}\n");
  ::testing::internal::CaptureStderr();
  const CalibrationSet set = Load(options);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("texts=2 of=3 "));
  for (const size_t row : {0, 2}) EXPECT_THAT(std::span(set.sequences[row]).first(2), Each(1));
}

TEST_F(CalibrationTest, TakesTheColumnItIsTold) {
  CalibrationOptions options = AllOf("{\"instruction\": \"a\", \"output\": \"b\", \"q\": \"c\"}\n");
  options.text_column = "q";
  EXPECT_THAT(Texts(Load(options)), ElementsAre("<s> c"));
}

TEST_F(CalibrationTest, ShufflesAsNumpyDoes) {
  CalibrationOptions options = {.path = kRows / "rows.jsonl", .samples = 20};
  const CalibrationSet all = Load(options);
  // numpy.random.default_rng(42).permutation(20), NumPy 2.4.6
  EXPECT_THAT(all.rows,
              ElementsAre(15, 9, 14, 7, 12, 10, 6, 19, 3, 0, 16, 5, 11, 18, 2, 4, 17, 1, 13, 8));
  options.samples = 5;
  const CalibrationSet some = Load(options);
  EXPECT_EQ(some.rows, std::vector<int64_t>(all.rows.begin(), all.rows.begin() + 5));
  EXPECT_EQ(some.sequences[4], all.sequences[4]);
}

TEST_F(CalibrationTest, FormatsAreInterchangeable) {
  const CalibrationSet expected = Load({.path = kRows / "rows.jsonl", .samples = 12});
  for (const char* name : {"rows.snappy.parquet", "rows.gzip.parquet", "rows.jsonl.zst"}) {
    EXPECT_EQ(Load({.path = kRows / name, .samples = 12}).ids_sha256, expected.ids_sha256) << name;
  }
}

TEST_F(CalibrationTest, CutsAndCounts) {
  CalibrationOptions options = {.path = kRows / "rows.jsonl", .samples = 20, .shuffle = false};
  const CalibrationSet whole = Load(options);
  EXPECT_EQ(whole.num_cut, 0);
  EXPECT_EQ(whole.num_tokens, whole.num_tokens_uncut);
  options.max_seq_len = 30;
  const CalibrationSet cut = Load(options);
  int64_t tokens = 0;
  for (size_t i = 0; i < cut.sequences.size(); ++i) {
    const auto& full = whole.sequences[i];
    const size_t length = std::min<size_t>(full.size(), 30);
    EXPECT_EQ(cut.sequences[i],
              std::vector<int32_t>(full.begin(), full.begin() + static_cast<int64_t>(length)));
    tokens += static_cast<int64_t>(length);
  }
  EXPECT_EQ(cut.num_tokens, tokens);
  EXPECT_EQ(cut.num_tokens_uncut, whole.num_tokens);
  EXPECT_EQ(cut.num_cut, 4);  // every fifth row is long
  EXPECT_NE(cut.ids_sha256, whole.ids_sha256);
}

TEST_F(CalibrationTest, RendersMessagesWithoutASecondBos) {
  const ChatTemplate chat(
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}", "<s>",
      "</s>");
  CalibrationOptions options = {
      .path = kRows / "rows.zstd.parquet", .samples = 2, .shuffle = false};
  options.chat = true;
  const CalibrationSet set = Load(options, &chat);
  EXPECT_THAT(Texts(set), ElementsAre("<s> [user] 0?", "<s> [user] 1?[assistant] 2"));
  EXPECT_THAT(set.columns, ElementsAre(Pair("messages", 2)));
  EXPECT_THAT(Message(ErrorCode::kInvalidArgument, options), HasSubstr("no chat template"));
  const ChatTemplate strict("{{ raise_exception('roles must alternate') }}", "", "");
  EXPECT_THAT(Message(ErrorCode::kInvalidData, options, &strict),
              HasSubstr("rows.zstd.parquet: row 1: chat template: roles must alternate"));
}

TEST_F(CalibrationTest, CountsTheColumnsItReads) {
  const std::string both = "{\"text\": \"a\", \"instruction\": \"b\", \"output\": \"c\"}\n";
  const CalibrationSet set = Load(AllOf(both + "{\"text\": \"a\"}\n" + both));
  EXPECT_THAT(set.columns, ElementsAre(Pair("instruction+output", 2), Pair("text", 1)));
  EXPECT_EQ(set.num_rows, 3);
  EXPECT_EQ(set.num_skipped, 0);
  CalibrationOptions options = AllOf(both);
  options.text_column = "output";
  EXPECT_THAT(Load(options).columns, ElementsAre(Pair("output", 1)));
}

TEST_F(CalibrationTest, SkipsRowsWithoutATextAndCountsThem) {
  CalibrationOptions options = AllOf(
      "{\"text\": \"a\"}\n{\"text\": \"\"}\n{\"text\": null}\n{\"text\": NaN}\n\nnull\n{\"body\": "
      "\"x\"}\n"
      "{\"instruction\": \"\", \"output\": \"\"}\n{\"instruction\": null, \"output\": \"x\"}\n"
      "{\"instruction\": null, \"output\": null, \"text\": \"b\", \"score\": -Infinity}\n");
  options.samples = 2;
  const CalibrationSet set = Load(options);
  EXPECT_THAT(Texts(set), ElementsAre("<s> a", "<s> b"));
  EXPECT_THAT(set.rows, ElementsAre(0, 8));
  EXPECT_EQ(set.num_rows, 9);
  EXPECT_EQ(set.num_skipped, 7);
}

TEST_F(CalibrationTest, SkipsConversationsWithoutMessagesOrThatTheTemplateRefuses) {
  const ChatTemplate chat(
      "{% if messages[0].role != 'user' %}{{ raise_exception('no user') }}{% endif %}"
      "{{ messages[0].content }}",
      "", "");
  const std::string user = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n";
  CalibrationOptions options =
      AllOf("{\"messages\": []}\n{\"messages\": null}\n{}\n" + user +
            "{\"messages\": [{\"role\": \"system\", \"content\": \"b\"}]}\n" +
            "{\"messages\": [{\"role\": \"user\", \"content\": \"\"}]}\n");
  options.samples = 1;
  options.chat = true;
  const CalibrationSet set = Load(options, &chat);
  EXPECT_THAT(set.rows, ElementsAre(3));
  EXPECT_EQ(set.num_skipped, 5);
}

// The drawn rows are those of the same file without gaps in it, as far as they have a text, and
// then the next: with any number of samples, and whichever rows the shuffle puts first.
TEST_F(CalibrationTest, ARowsPlaceInTheShuffleDoesNotDependOnItsNeighbours) {
  std::string full, gaps;
  for (int i = 0; i < 30; ++i) {
    full += fmt::format("{{\"text\": \"{}\"}}\n", i);
    gaps += fmt::format("{{\"text\": \"{}\"}}\n", i % 3 == 0 ? "" : std::to_string(i));
  }
  CalibrationOptions options = AllOf(full);
  options.shuffle = true;
  std::vector<int64_t> expected = Load(options).rows;
  std::erase_if(expected, [](int64_t row) { return row % 3 == 0; });
  WriteTextFile(options.path, gaps);
  for (options.samples = 1; options.samples <= 20; ++options.samples) {
    EXPECT_EQ(Load(options).rows,
              std::vector<int64_t>(expected.begin(), expected.begin() + options.samples));
  }
  EXPECT_THAT(Message(ErrorCode::kInvalidData, options),
              ::testing::AllOfArray({HasSubstr("rows.jsonl:1: the text is empty"),
                                     HasSubstr("20 of 30 rows have a text, but 21 samples")}));
}

TEST_F(CalibrationTest, ErrorsNameTheRow) {
  const ErrorCode data = ErrorCode::kInvalidData;
  const std::string good = "{\"text\": \"a\"}\n";
  EXPECT_THAT(Message(data, AllOf(good + "{\"text\": \"\"}\n")),
              HasSubstr("rows.jsonl:2: the text is empty"));
  EXPECT_THAT(Message(data, AllOf(good + "{\"instruction\": \"\", \"output\": \"\"}\n")),
              HasSubstr("rows.jsonl:2: the text is empty"));
  EXPECT_THAT(Message(data, AllOf(good + "{\"body\": \"x\"}\n")),
              HasSubstr("rows.jsonl:2: neither"));
  EXPECT_THAT(Message(data, AllOf(good + "{\"text\": null}\n")),
              HasSubstr("rows.jsonl:2: column \"text\" is null"));
  EXPECT_THAT(Message(data, AllOf(good + "{\"instruction\": null, \"output\": \"x\"}\n")),
              HasSubstr("rows.jsonl:2: column \"instruction\" is null"));
  EXPECT_THAT(Message(data, AllOf(good + "{\"text\": \"\xc3(\"}\n")),
              HasSubstr("rows.jsonl:2: not valid JSON"));
  CalibrationOptions options = AllOf(good + good);
  options.text_column = "txt";
  EXPECT_THAT(Message(data, options), HasSubstr("no column \"txt\"; the row has: text"));
  options.path = kRows / "awkward.parquet";
  EXPECT_THAT(Message(data, options), HasSubstr("no column \"txt\"; there are: text, when"));
  options.text_column.clear();
  options.samples = 3;
  EXPECT_THAT(Message(data, options), HasSubstr("parquet: row 2: column \"text\" is null"));
  options.path = kRows / "types.parquet";
  EXPECT_THAT(Message(data, options), HasSubstr("name the column with `text_column`"));
  options.chat = true;
  const ChatTemplate chat("x", "", "");
  EXPECT_THAT(Message(data, options, &chat), HasSubstr("no column \"messages\"; there are: int8"));
}

// Whether the shuffle draws it or not.
TEST_F(CalibrationTest, AColumnThatHoldsNoTextIsAnErrorAnywhere) {
  for (const char* bad : {"7", "[\"a\"]", "{}", "true"}) {
    CalibrationOptions options = AllOf("{\"text\": \"a\"}\n{\"text\": " + std::string(bad) + "}\n");
    options.samples = 1;
    EXPECT_THAT(Message(ErrorCode::kInvalidData, options),
                HasSubstr("rows.jsonl:2: column \"text\": expected a string, found "));
  }
}

TEST_F(CalibrationTest, ErrorsNameTheNumbers) {
  CalibrationOptions options = AllOf("{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
  options.samples = 3;
  EXPECT_THAT(Message(ErrorCode::kInvalidArgument, options),
              HasSubstr("3 samples asked for, but the file has 2 rows"));
  WriteTextFile(options.path, "{\"text\": \"a\"}\n{\"text\": null}\n");
  EXPECT_THAT(Message(ErrorCode::kInvalidArgument, options),
              HasSubstr("1 of them without a text (" + options.path.string() +
                        ":2: column \"text\" is null)"));
  options.samples = 0;
  EXPECT_THAT(Message(ErrorCode::kInvalidArgument, options),
              HasSubstr("`samples`: expected at least 1"));
  options.samples = 2;
  options.max_seq_len = -1;
  EXPECT_THAT(Message(ErrorCode::kInvalidArgument, options), HasSubstr("`max_seq_len`"));
}

TEST_F(CalibrationTest, ATokenBeyondTheVocabularyIsNamed) {
  const CalibrationOptions options = AllOf("{\"text\": \"Hello, world!\"}\n");
  try {
    LoadCalibration(options, tokenizer_, nullptr, 4086);
    ADD_FAILURE() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("gives id 4086, but the model's vocabulary has 4086 entries"));
  }
}

// llm-compressor's calibration set on the demonstration model (golden/tinymix/README.md).
TEST(CalibrationGolden, EqualsTheReferencePipeline) {
  NIBBLE_REQUIRE_REFERENCE("calibration/platypus_like.jsonl");
  const fs::path data = nibble::testing::ReferenceData();
  const Tokenizer tokenizer = Tokenizer::Load(data / "models/tinymix");
  const CalibrationSet set = LoadCalibration({.path = data / "calibration/platypus_like.jsonl",
                                              .samples = 256,
                                              .seed = 42,
                                              .max_seq_len = 512},
                                             tokenizer, nullptr, 4096);
  EXPECT_EQ(std::accumulate(set.rows.begin(), set.rows.end(), int64_t{0}), 1'310'885);
  EXPECT_THAT(std::vector<int64_t>(set.rows.begin(), set.rows.begin() + 10),
              ElementsAre(8806, 8522, 7574, 10223, 1684, 6731, 1441, 8758, 926, 5485));
  EXPECT_EQ(set.num_tokens, 55'634);
  EXPECT_EQ(set.num_tokens_uncut, 60'391);
  EXPECT_EQ(set.num_cut, 27);
  EXPECT_EQ(set.ids_sha256, "acdfe8b803213761e4fbd72bc5d8c58599bbfdb8e6e2696225df826e1d5c6a5e");
}

}  // namespace
}  // namespace nibble
