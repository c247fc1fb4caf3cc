#include "nibble/error.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace nibble {
namespace {

TEST(Error, KeepsItsCodeWhenContextIsPutInFront) {
  const Error error(ErrorCode::kNotFound, "no tensor \"a\"");
  const Error outer = error.WithContext("shard 3");
  EXPECT_EQ(outer.code(), ErrorCode::kNotFound);
  EXPECT_STREQ(outer.what(), "shard 3: no tensor \"a\"");
  EXPECT_STREQ(error.what(), "no tensor \"a\"");
}

TEST(Error, NamesEachCodeDifferently) {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(ErrorCode::kInternal); ++code) {
    names.insert(ErrorCodeName(static_cast<ErrorCode>(code)));
  }
  EXPECT_EQ(names.size(), 8u);
  EXPECT_FALSE(names.contains("unknown error"));
}

}  // namespace
}  // namespace nibble
