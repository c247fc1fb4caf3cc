#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/support/paths.h"

// Models and outputs recorded from other software. They are not part of the repository: a test that
// needs them is skipped, visibly, if they are absent.
namespace nibble::testing {

inline std::filesystem::path ReferenceData() {
  const char* override_path = std::getenv("NIBBLE_REFERENCE_DATA");
  return override_path != nullptr ? override_path : kReferenceData;
}

}  // namespace nibble::testing

#define NIBBLE_REQUIRE_REFERENCE(relative)                                       \
  if (!std::filesystem::exists(::nibble::testing::ReferenceData() / (relative))) \
  GTEST_SKIP() << "reference data absent: " << (::nibble::testing::ReferenceData() / (relative))
