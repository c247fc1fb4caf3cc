#include "tensor/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "nibble/error.h"

// Under the sanitizers, as without them, an impossible allocation returns null.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): names they look for
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
extern "C" const char* __tsan_default_options() { return "allocator_may_return_null=1"; }
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

namespace nibble {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(Tensor, StartsZeroedAndAligned) {
  for (const int64_t size : {1, 63, 64, 65, 100'000}) {
    Tensor tensor(DType::kF32, {size});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data()) % 64, 0u);
    EXPECT_THAT(tensor.As<float>(), Each(0.0f));
  }
}

TEST(Tensor, HoldsOneElementAtRankZeroAndNoneInAnEmptyShape) {
  EXPECT_EQ(Tensor(DType::kI64, Shape()).As<int64_t>().size(), 1u);
  const Tensor empty(DType::kBF16, {0, 5});
  EXPECT_EQ(empty.As<BFloat16>().size(), 0u);
  EXPECT_EQ(Tensor::Copy(empty.view()).view().size_bytes(), 0);
}

TEST(Tensor, CopiesDeeply) {
  Tensor original = Tensor::FromVector<int32_t>({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor copy = Tensor::Copy(original.view());
  original.As<int32_t>()[0] = 9;
  EXPECT_THAT(copy.As<int32_t>(), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(copy.shape(), (Shape{2, 3}));
}

TEST(Tensor, SaysHowMuchMemoryItWanted) {
  try {
    const Tensor tensor(DType::kF32, {int64_t{1} << 30, int64_t{1} << 20});
    FAIL() << "4 PiB were granted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    EXPECT_STREQ(error.what(),
                 "out of memory: a F32 tensor [1073741824, 1048576] needs 4503599627370496 bytes");
  }
}

TEST(TensorView, CutsRowsOffTheOutermostAxis) {
  const Tensor tensor =
      Tensor::FromVector<int32_t>({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {3, 2, 2});
  const TensorView rows = tensor.view().Rows(1, 2);
  EXPECT_EQ(rows.shape(), (Shape{2, 2, 2}));
  EXPECT_THAT(rows.As<int32_t>(), ElementsAre(5, 6, 7, 8, 9, 10, 11, 12));
  EXPECT_EQ(tensor.view().Rows(3, 0).num_elements(), 0);
}

TEST(TensorViewDeathTest, RefusesOtherTypesRowsAndMisalignedData) {
  const Tensor tensor(DType::kI32, {4});
  EXPECT_DEATH(tensor.As<float>(), "check failed");
  EXPECT_DEATH(tensor.view().Rows(2, 3), "check failed");
  const TensorView shifted(tensor.view().data() + 1, DType::kI32, {3});
  EXPECT_DEATH(shifted.As<int32_t>(), "check failed");
}

TEST(ToFloat, WidensExactly) {
  const Tensor bf16 = Tensor::FromVector<BFloat16>({BFloat16(1.5f), BFloat16::FromBits(1)}, {2});
  EXPECT_THAT(ToFloat(bf16.view()), ElementsAre(1.5f, 0x1p-133f));
  const Tensor fp16 = Tensor::FromVector<Float16>({Float16(-2.5f), Float16::FromBits(1)}, {2});
  EXPECT_THAT(ToFloat(fp16.view()), ElementsAre(-2.5f, 0x1p-24f));
  const Tensor fp32 = Tensor::FromVector<float>({0.1f, -kInfinity}, {2});
  EXPECT_THAT(ToFloat(fp32.view()), ElementsAre(0.1f, -kInfinity));
}

TEST(ToFloat, ReadsMisalignedData) {
  std::vector<std::byte> bytes(9);
  const float value = 0.7f;
  std::memcpy(bytes.data() + 1, &value, 4);
  std::memcpy(bytes.data() + 5, &value, 4);
  EXPECT_THAT(ToFloat(TensorView(bytes.data() + 1, DType::kF32, {2})), ElementsAre(0.7f, 0.7f));
}

TEST(ToFloat, RefusesIntegers) {
  const Tensor tensor(DType::kI32, {2});
  EXPECT_THROW(ToFloat(tensor.view()), Error);
  EXPECT_THROW(FindNonFinite(tensor.view()), Error);
  EXPECT_THROW(FromFloat(std::vector<float>{1}, DType::kF64, {1}), Error);
}

TEST(FromFloat, RoundsOnce) {
  const std::vector<float> values = {1.0f + 0x1p-8f, 1.0f + 0x1p-11f, 65520.0f};
  EXPECT_THAT(ToFloat(FromFloat(values, DType::kBF16, {3}).view()),
              ElementsAre(1.0f, 1.0f, 65536.0f));
  EXPECT_THAT(ToFloat(FromFloat(values, DType::kF16, {3}).view()),
              ElementsAre(1.0f + 0x1p-8f, 1.0f, kInfinity));
  EXPECT_THAT(ToFloat(FromFloat(values, DType::kF32, {3}).view()),
              ::testing::ElementsAreArray(values));
}

TEST(FindNonFinite, FindsTheFirst) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const float bad : {kNaN, -kNaN, kInfinity, -kInfinity}) {
      for (const size_t at : {0u, 3u, 6u}) {
        std::vector<float> values = {0, -1, 2, -0.0f, 1e4f, 5e-8f, -6e4f};
        EXPECT_EQ(FindNonFinite(FromFloat(values, dtype, {7}).view()), -1);
        values[at] = bad;
        values[6] = bad;
        EXPECT_EQ(FindNonFinite(FromFloat(values, dtype, {7}).view()), static_cast<int64_t>(at));
      }
    }
  }
  EXPECT_EQ(FindNonFinite(Tensor(DType::kF32, {0}).view()), -1);
}

}  // namespace
}  // namespace nibble
