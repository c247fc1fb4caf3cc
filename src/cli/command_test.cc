#include "cli/command.h"

#include <gtest/gtest.h>

#include "nibble/error.h"

namespace nibble {
namespace {

TEST(ParseByteSize, UnderstandsDecimalAndBinaryUnits) {
  EXPECT_EQ(ParseByteSize("4096", "--memory"), 4096);
  EXPECT_EQ(ParseByteSize("5GB", "--memory"), 5'000'000'000);
  EXPECT_EQ(ParseByteSize("5gb", "--memory"), 5'000'000'000);
  EXPECT_EQ(ParseByteSize("1.5GiB", "--memory"), 1'610'612'736);
  EXPECT_EQ(ParseByteSize("512KiB", "--memory"), 524'288);
}

TEST(ParseByteSize, RefusesNonsenseNamingTheFlag) {
  for (const char* text : {"", "GB", "-1GB", "0", "5 parsecs", "5GBx", "nan", "inf", "1e30TB"}) {
    try {
      ParseByteSize(text, "--memory");
      ADD_FAILURE() << text << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find("--memory"), std::string::npos);
    }
  }
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
