#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temporary_directory.h"

namespace nibble {
namespace {

SafetensorsHeader Parse(const std::string& bytes) {
  return ParseSafetensorsHeader(std::as_bytes(std::span(bytes)), static_cast<int64_t>(bytes.size()),
                                "file");
}

TEST(Safetensors, ReadsTheDocumentedExample) {
  const std::string json = R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}} )";
  const SafetensorsHeader header = Parse(std::string("\x38\0\0\0\0\0\0\0", 8) + json + "wxyz");
  ASSERT_EQ(header.entries.size(), 1u);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[0].dtype, DType::kBF16);
  EXPECT_EQ(header.entries[0].shape, Shape{2});
  EXPECT_EQ(header.data_offset, 64);
}

}  // namespace
}  // namespace nibble
