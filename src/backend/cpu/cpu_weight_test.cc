#include "backend/cpu/cpu_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/testing_layer.h"
#include "nibble/error.h"

namespace nibble::cpu {
namespace {

using ::testing::HasSubstr;
using testing::HostWeight;
using testing::RandomWeight;

// The value of one weight as the layout documents it, read back the slow way.
float ValueAt(const CpuWeight& weight, int64_t row, int64_t col) {
  const auto& layout = std::get<PackedLayout>(weight.layout());
  const PackedFormat& format = layout.format;
  int64_t k = col;
  if (!layout.columns.empty()) {
    k = std::ranges::find(layout.columns, static_cast<int32_t>(col)) - layout.columns.begin();
  }
  const int64_t r = row % kTileRows;
  const uint8_t* const block =
      layout.tile(row / kTileRows) + k / format.block_cols * format.block_bytes;
  k %= format.block_cols;
  int code = 0;
  for (int64_t plane = 0; plane < format.nibble_planes; ++plane) {
    const uint8_t byte = block[plane * format.block_cols * 32 + k / 8 * 256 + r * 4 + k % 4];
    code = 16 * code + (k % 8 < 4 ? byte & 15 : byte >> 4);
  }
  const uint8_t* const tail = block + format.nibble_planes * format.block_cols * 32;
  float scale = 0;
  if (format.float_scales) {
    scale = reinterpret_cast<const float*>(tail)[r];
  } else {
    scale = static_cast<float>(BFloat16::FromBits(reinterpret_cast<const uint16_t*>(tail)[r]));
  }
  const int zero = format.zero_points ? tail[kTileRows * (format.float_scales ? 4 : 2) + r]
                                      : 8 << (4 * (format.nibble_planes - 1));
  return static_cast<float>(code - zero) * scale;
}

TEST(CpuWeight, PackedLayoutHoldsExactlyTheDequantizedValues) {
  ThreadPool pool(2);
  for (const int bits : {4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const bool act_order : {true, false}) {
        for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
          const testing::WeightFormat format{.dtype = dtype,
                                             .bits = bits,
                                             .group_size = 40,
                                             .symmetric = symmetric,
                                             .act_order = act_order};
          SCOPED_TRACE(format.ToString());
          const HostWeight host = RandomWeight(format, 67, 120, 5);
          const auto weight = PrepareWeight(host.view(), Role::kProjection, pool);
          const std::vector<float> expected = Dequantize(std::get<PackedView>(host.view()));
          for (int64_t row = 0; row < 67; ++row) {
            for (int64_t col = 0; col < 120; ++col) {
              ASSERT_EQ(ValueAt(*weight, row, col), expected[static_cast<size_t>(row * 120 + col)])
                  << row << " " << col;
            }
          }
        }
      }
    }
  }
}

TEST(CpuWeight, FourBitsStayFourBits) {
  ThreadPool pool(1);
  const HostWeight host = RandomWeight({.bits = 4, .group_size = 128}, 128, 512, 1);
  const auto weight = PrepareWeight(host.view(), Role::kProjection, pool);
  EXPECT_EQ(weight->size_bytes(), 128 * 512 / 2 + 128 * 4 * 2);  // 4.125 bits a weight
  EXPECT_EQ(weight->rows(), 128);
  EXPECT_EQ(weight->cols(), 512);
}

// A group index may leave groups of unequal size; the layout pads.
TEST(CpuWeight, TakesGroupsOfUnequalSize) {
  ThreadPool pool(1);
  HostWeight host = RandomWeight({.bits = 4, .group_size = 32, .act_order = true}, 9, 96, 3);
  for (const size_t k : {0u, 1u, 2u, 50u, 95u}) host.packed->g_idx->As<int32_t>()[k] = 2;
  const auto weight = PrepareWeight(host.view(), Role::kProjection, pool);
  const std::vector<float> expected = Dequantize(std::get<PackedView>(host.view()));
  for (int64_t row = 0; row < 9; ++row) {
    for (int64_t col = 0; col < 96; ++col) {
      ASSERT_EQ(ValueAt(*weight, row, col), expected[static_cast<size_t>(row * 96 + col)]);
    }
  }
}

TEST(CpuWeight, RefusesTypesItCannotRun) {
  ThreadPool pool(1);
  const Tensor integers(DType::kI32, Shape{4, 4});
  try {
    PrepareWeight(integers.view(), Role::kProjection, pool);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("I32"));
  }
}

TEST(CpuWeight, RefusesAGroupIndexOutOfRange) {
  ThreadPool pool(1);
  HostWeight host = RandomWeight({.bits = 4, .group_size = 32, .act_order = true}, 8, 64, 1);
  for (const int32_t group : {-1, 2}) {
    host.packed->g_idx->As<int32_t>()[5] = group;
    try {
      PrepareWeight(host.view(), Role::kProjection, pool);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidData);
      EXPECT_THAT(error.what(), HasSubstr("column 5 belongs to group " + std::to_string(group)));
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
