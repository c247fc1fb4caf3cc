#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble {
namespace {

TEST(DType, NamesReadBackAndSizesFollowTheName) {
  for (int index = 0; index <= static_cast<int>(DType::kU64); ++index) {
    const auto dtype = static_cast<DType>(index);
    const std::string name(DTypeName(dtype));
    EXPECT_EQ(ParseDType(name), dtype) << name;
    const size_t digit = name.find_first_of("0123456789");
    const int64_t bits = digit == std::string::npos ? 8 : std::stoi(name.substr(digit));
    EXPECT_EQ(DTypeSize(dtype) * 8, bits) << name;
    EXPECT_EQ(IsFloat(dtype), name == "BF16" || name == "F16" || name == "F32") << name;
  }
}

TEST(DType, KnowsNoOtherNames) {
  for (const char* name : {"", "bf16", "BF16 ", "F8_E8M0", "F4", "FLOAT"}) {
    EXPECT_FALSE(ParseDType(name).has_value()) << name;
  }
}

}  // namespace
}  // namespace nibble
