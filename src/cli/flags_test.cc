#include "cli/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// What `act` throws, which must be the user's fault.
template <typename Act>
std::string Refusal(Act&& act) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

// Parses words as typed.
void Parse(CLI::App& app, std::vector<std::string> words) {
  app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
}

TEST(Flags, TextsAreTakenAsTypedOneATime) {
  CLI::App app;
  std::string model;
  std::vector<std::string> prompts;
  AddPath(app, "model", model, "")->required();
  AddTexts(app, "--prompt", prompts, "");
  Parse(app, {"--prompt", "[INST] Say a, b, c [/INST]", "--prompt", "{}", "--prompt=[a,b]",
              "--prompt", "", "m", "--prompt", "--prompt", "--prompt", "%%"});
  EXPECT_THAT(prompts,
              ElementsAre("[INST] Say a, b, c [/INST]", "{}", "[a,b]", "", "--prompt", "%%"));
  EXPECT_EQ(model, "m");
}

TEST(Flags, ValuesThatCannotBeAreRefusedByName) {
  CLI::App app;
  std::string text, path;
  std::vector<std::string> texts;
  AddText(app, "--text", text, "");
  AddTexts(app, "--texts", texts, "");
  AddPath(app, "--path", path, "");
  EXPECT_THAT(Refusal([&] { Parse(app, {"--text", "ab\xff"}); }),
              AllOf(StartsWith("--text: "), HasSubstr("UTF-8"), HasSubstr("at 2")));
  EXPECT_THAT(Refusal([&] { Parse(app, {"--texts", "ab", "--texts", "\xff"}); }),
              StartsWith("--texts: "));
  EXPECT_THAT(Refusal([&] { Parse(app, {"--path", ""}); }), StartsWith("--path: expected a path"));
  Parse(app, {"--path", "a\xff"});
  EXPECT_EQ(path, "a\xff");
}

TEST(Flags, ListsOfNumbersAddUpAndArePiecewiseChecked) {
  CLI::App app;
  std::vector<int> ids;
  AddNumbers(app, "--ids", ids, "");
  Parse(app, {"--ids", "7", "--ids", "1,-2,3"});
  EXPECT_THAT(ids, ElementsAre(7, 1, -2, 3));
  for (const char* list : {"", ",", "1,", ",1", "1,,2", "1, 2", "[1,2]", "1,2147483648", "1,x"}) {
    EXPECT_THAT(Refusal([&] { Parse(app, {"--ids", list}); }), StartsWith("--ids: expected"))
        << list;
  }
}

TEST(ParseNumber, ReadsDecimalNumbersToTheEndsOfTheirTypes) {
  EXPECT_EQ(ParseNumber<int64_t>("9223372036854775807", "--n"),
            std::numeric_limits<int64_t>::max());
  EXPECT_EQ(ParseNumber<int64_t>("-9223372036854775808", "--n"),
            std::numeric_limits<int64_t>::min());
  EXPECT_EQ(ParseNumber<uint64_t>("18446744073709551615", "--n"),
            std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(ParseNumber<int>("010", "--n"), 10);
  EXPECT_EQ(ParseNumber<double>("-1.5e-3", "--n"), -1.5e-3);
  EXPECT_EQ(ParseNumber<double>(".5", "--n"), 0.5);
}

TEST(ParseNumber, NamesTheFlagTheRangeAndWhatWasTyped) {
  EXPECT_EQ(
      Refusal([] { ParseNumber<int64_t>("9223372036854775808", "--max-tokens", {.least = 1}); }),
      "--max-tokens: expected an integer from 1 to 9223372036854775807, found "
      "\"9223372036854775808\"");
  EXPECT_EQ(Refusal([] { ParseNumber<uint64_t>("-1", "--seed"); }),
            "--seed: expected an integer from 0 to 18446744073709551615, found \"-1\"");
  EXPECT_EQ(Refusal([] { ParseNumber<int>("1025", "--threads", {0, 1024}); }),
            "--threads: expected an integer from 0 to 1024, found \"1025\"");
  EXPECT_EQ(Refusal([] { ParseNumber<double>("nan", "--top-p"); }),
            "--top-p: expected a number, found \"nan\"");
  EXPECT_EQ(Refusal([] { ParseNumber<double>("1,5", "--top-p"); }),
            "--top-p: expected a number, found \"1,5\"");
}

TEST(Flags, HelpShowsTypesRangesAndDefaults) {
  CLI::App app;
  int threads = 0;
  int64_t samples = 512;
  double dampening = 0.1;
  int64_t memory = 0;
  int64_t shard = 5'000'000'000;
  AddNumber(app, "--threads", threads, "", {0, 1024});
  AddNumber(app, "--samples", samples, "", {.least = 1});
  AddNumber(app, "--dampening", dampening, "");
  AddByteSize(app, "--memory", memory, "");
  AddByteSize(app, "--shard", shard, "");
  EXPECT_THAT(app.help(),
              AllOf(HasSubstr("--threads INT 0..1024=0"), HasSubstr("--samples INT from 1=512"),
                    HasSubstr("--dampening FLOAT=0.1"), HasSubstr("--memory SIZE  "),
                    HasSubstr("--shard SIZE=5.0 GB ")));
}

TEST(ParseByteSize, UnderstandsDecimalAndBinaryUnits) {
  EXPECT_EQ(ParseByteSize("4096", "--memory"), 4096);
  EXPECT_EQ(ParseByteSize("5GB", "--memory"), 5'000'000'000);
  EXPECT_EQ(ParseByteSize("5gb", "--memory"), 5'000'000'000);
  EXPECT_EQ(ParseByteSize("5.0 GB", "--memory"), 5'000'000'000);
  EXPECT_EQ(ParseByteSize("1.5GiB", "--memory"), 1'610'612'736);
  EXPECT_EQ(ParseByteSize("512KiB", "--memory"), 524'288);
}

TEST(ParseByteSize, RefusesNonsenseNamingTheFlag) {
  for (const char* text : {"", " ", "GB", "-1", "-1GB", "0", "0.5", "5 parsecs", "5GBx", "5  GB",
                           "5 ", "nan", "inf", "infGB", "1e30TB", "99999999999999999999", "0x10"}) {
    EXPECT_THAT(Refusal([&] { ParseByteSize(text, "--memory"); }),
                StartsWith("--memory: expected a size"))
        << text;
  }
}

}  // namespace
}  // namespace nibble
