#include "backend/make_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

TEST(MakeBackend, KnowsItsNames) {
  EXPECT_EQ(MakeBackend("reference")->name(), "reference");
  const auto cpu = MakeBackend("cpu", {.threads = 3, .instruction_set = "portable"});
  EXPECT_THAT(std::string(cpu->name()), ::testing::StartsWith("cpu"));
  EXPECT_EQ(cpu->threads().num_threads(), 3);
}

TEST(MakeBackend, RefusesOthersNamingThoseItKnows) {
  const auto error_of = [](const std::string& name, const BackendOptions& options) {
    try {
      MakeBackend(name, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return std::string(error.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(error_of("abacus", {}),
              AllOf(HasSubstr("abacus"), HasSubstr("cpu"), HasSubstr("reference")));
  EXPECT_THAT(error_of("", {}), HasSubstr("reference"));
  EXPECT_THAT(error_of("cpu", {.threads = 0, .instruction_set = "mmx"}),
              AllOf(HasSubstr("mmx"), HasSubstr("avx2"), HasSubstr("portable")));
}

TEST(MakeBackend, SaysWhyThereIsNoCudaAndWhatToDo) {
  try {
    MakeBackend("cuda:0");
    FAIL() << "a backend that does not exist";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("cuda:0"), HasSubstr("make cuda"), HasSubstr("`backend` cpu")));
  }
}

}  // namespace
}  // namespace nibble
