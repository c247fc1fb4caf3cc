#include "base/current_error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "base/json.h"

namespace nibble {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// What `act` throws.
template <typename Act>
Error Caught(Act&& act) {
  try {
    act();
  } catch (...) {
    return CurrentError();
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorCode::kInternal, "nothing was thrown");
}

TEST(CurrentError, LeavesAnErrorAsItIs) {
  const Error error =
      Caught([] { throw Error(ErrorCode::kUnsupported, "config.json: a shape of its own"); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_STREQ(error.what(), "config.json: a shape of its own");
}

TEST(CurrentError, NamesThePathTheSystemRefused) {
  const std::string name(256, 'x');
  const Error too_long = Caught([&] { return std::filesystem::exists(name); });
  EXPECT_EQ(too_long.code(), ErrorCode::kIo);
  EXPECT_THAT(too_long.what(), AllOf(StartsWith(name + ": "), HasSubstr("too long")));

  const Error absent = Caught([] { return std::filesystem::file_size("no/such/file"); });
  EXPECT_EQ(absent.code(), ErrorCode::kNotFound);
  EXPECT_THAT(absent.what(), StartsWith("no/such/file: "));

  const Error empty = Caught([] { return std::filesystem::absolute(""); });
  EXPECT_EQ(empty.code(), ErrorCode::kIo);
  EXPECT_THAT(empty.what(), StartsWith("an empty path: "));

  const Error full = Caught([] {
    throw std::filesystem::filesystem_error("cannot copy file", "from", "to",
                                            std::error_code(ENOSPC, std::generic_category()));
  });
  EXPECT_EQ(full.code(), ErrorCode::kResourceExhausted);
  EXPECT_THAT(full.what(), AllOf(HasSubstr("from"), HasSubstr("to"), HasSubstr("No space left")));
}

TEST(CurrentError, LimitsOfTheMachineAreNoBugs) {
  for (const Error& error : {
           Caught([] { throw std::bad_alloc(); }),
           Caught([] { throw std::bad_array_new_length(); }),
           Caught([] { std::vector<int>().reserve(size_t{1} << 62); }),
           Caught([] { std::string().reserve(~size_t{0}); }),
           Caught([] { throw std::system_error(EAGAIN, std::generic_category()); }),
       }) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted) << error.what();
  }
}

TEST(CurrentError, TextThatIsNotUtf8IsBadData) {
  const Error error = Caught([] { return Json("a\xff").dump(); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
  EXPECT_THAT(error.what(), HasSubstr("not UTF-8"));
}

TEST(CurrentError, AnythingElseIsABug) {
  for (const Error& error : {
           Caught([] { throw std::out_of_range("vector::at"); }),
           Caught([] { return Json("text").get<int>(); }),
           Caught([] { throw 7; }),
       }) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal) << error.what();
    EXPECT_THAT(error.what(), StartsWith("internal error: "));
  }
}

}  // namespace
}  // namespace nibble
