#include "backend/cpu/kernels/instruction_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "nibble/error.h"

namespace nibble::cpu {
namespace {

using ::testing::HasSubstr;

class InstructionSetChoice : public ::testing::Test {
 protected:
  void SetUp() override { unsetenv("NIBBLE_INSTRUCTION_SET"); }
  void TearDown() override { unsetenv("NIBBLE_INSTRUCTION_SET"); }
};

TEST_F(InstructionSetChoice, TakesTheFirstThatThisMachineHas) {
  for (const InstructionSet& set : InstructionSets()) {
    if (!set.is_supported()) continue;
    EXPECT_STREQ(ChooseInstructionSet("").name, set.name);
    break;
  }
  EXPECT_TRUE(InstructionSets().back().is_supported());
}

TEST_F(InstructionSetChoice, TakesTheOneAskedFor) {
  EXPECT_STREQ(ChooseInstructionSet("portable").name, "portable");
  setenv("NIBBLE_INSTRUCTION_SET", "portable", 1);
  EXPECT_STREQ(ChooseInstructionSet("").name, "portable");
}

TEST_F(InstructionSetChoice, KnowsWhatWasRequested) {
  EXPECT_EQ(RequestedInstructionSet(""), "");
  setenv("NIBBLE_INSTRUCTION_SET", "portable", 1);
  EXPECT_EQ(RequestedInstructionSet(""), "portable");
  EXPECT_EQ(RequestedInstructionSet("avx2"), "avx2");
}

TEST_F(InstructionSetChoice, NamesTheKnownOnes) {
  setenv("NIBBLE_INSTRUCTION_SET", "abacus", 1);
  for (const std::string name : {"", "mmx"}) {
    try {
      ChooseInstructionSet(name);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      for (const InstructionSet& set : InstructionSets()) {
        EXPECT_THAT(error.what(), HasSubstr(set.name));
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
