#include "backend/cpu/cpu_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/sha256.h"
#include "nibble/error.h"
#include "tests/support/testing_layer.h"

namespace nibble::cpu {
namespace {

using ::testing::HasSubstr;
using testing::HostWeight;
using testing::RandomWeight;

std::unique_ptr<CpuWeight> PrepareWeight(const WeightView& view, Role role, ThreadPool& pool) {
  std::vector<CpuMatrix> parts;
  parts.push_back(PrepareMatrix(view, role, pool));
  return std::make_unique<CpuWeight>(std::move(parts));
}

// The value of one weight, decoded as the layout is documented: the slow twin.
float ValueAt(const CpuWeight& weight, int64_t row, int64_t col) {
  const auto& layout = std::get<PackedLayout>(weight.matrix(0).layout());
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
              ASSERT_EQ(ValueAt(*weight, row, col), expected[row * 120 + col]) << row << " " << col;
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
      ASSERT_EQ(ValueAt(*weight, row, col), expected[row * 96 + col]);
    }
  }
}

// Every kind of weight the layout knows.
std::vector<std::pair<HostWeight, Role>> OneOfEachKind() {
  std::vector<std::pair<HostWeight, Role>> weights;
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    weights.emplace_back(RandomWeight({.dtype = dtype}, 67, 40, 1), Role::kProjection);
    weights.emplace_back(RandomWeight({.dtype = dtype}, 67, 40, 1), Role::kHead);
    weights.emplace_back(RandomWeight({.dtype = dtype}, 7, 40, 1), Role::kRouter);
    weights.emplace_back(RandomWeight({.dtype = dtype}, 67, 40, 1), Role::kEmbedding);
    weights.emplace_back(RandomWeight({.dtype = dtype}, 1, 40, 1), Role::kVector);
    for (const int bits : {4, 8}) {
      for (const bool symmetric : {true, false}) {
        for (const bool act_order : {true, false}) {
          weights.emplace_back(RandomWeight({.dtype = dtype,
                                             .bits = bits,
                                             .group_size = 40,
                                             .symmetric = symmetric,
                                             .act_order = act_order},
                                            67, 120, 1),
                               Role::kProjection);
        }
      }
    }
  }
  weights.emplace_back(RandomWeight({.bits = 4, .group_size = 128}, 130, 256, 1),
                       Role::kProjection);
  weights.emplace_back(RandomWeight({.bits = 4, .group_size = 0}, 64, 300, 1), Role::kProjection);
  weights.emplace_back(RandomWeight({.bits = 4, .group_size = 40}, 67, 120, 1), Role::kEmbedding);
  return weights;
}

TEST(CpuWeight, WhatIsAdoptedEqualsWhatWasPrepared) {
  ThreadPool pool(2);
  const CpuWeightLayout layout;
  for (const auto& [host, role] : OneOfEachKind()) {
    const auto prepared = PrepareWeight(host.view(), role, pool);
    const std::span<const std::byte> bytes = layout.Bytes(*prepared, 0);
    ASSERT_EQ(layout.SizeBytes(host.view(), role), static_cast<int64_t>(bytes.size()));
    const auto adopted = layout.Adopt({{host.view()}}, role, {{bytes}});
    EXPECT_EQ(adopted->rows(), prepared->rows());
    EXPECT_EQ(adopted->cols(), prepared->cols());
    EXPECT_EQ(adopted->size_bytes(), prepared->size_bytes());
    EXPECT_EQ(layout.Bytes(*adopted, 0).data(), bytes.data());
    const CpuMatrix& matrix = dynamic_cast<const CpuWeight&>(*adopted).matrix(0);
    const CpuMatrix& expected = prepared->matrix(0);
    ASSERT_EQ(matrix.layout().index(), expected.layout().index());
    if (const auto* packed = std::get_if<PackedLayout>(&expected.layout())) {
      const auto& found = std::get<PackedLayout>(matrix.layout());
      EXPECT_EQ(found.format, packed->format);
      EXPECT_EQ(found.columns, packed->columns);
    } else if (const auto* dense = std::get_if<DenseLayout>(&expected.layout())) {
      EXPECT_EQ(std::get<DenseLayout>(matrix.layout()).bf16, dense->bf16);
    } else {
      EXPECT_EQ(std::get<RowTable>(matrix.layout()).dtype,
                std::get<RowTable>(expected.layout()).dtype);
    }
  }
}

// Files of packed weights are recognised by the layout's name: bytes that differ need another one.
TEST(CpuWeight, LayoutNameStandsForTheseBytes) {
  ThreadPool pool(2);
  const CpuWeightLayout layout;
  Sha256Hasher hasher;
  for (const auto& [host, role] : OneOfEachKind()) {
    hasher.Add(layout.Bytes(*PrepareWeight(host.view(), role, pool), 0));
  }
  EXPECT_EQ(layout.name(), "cpu 1");
  EXPECT_EQ(hasher.Finish(), "07cbb1950e72109698f6d09cdc2c9e56b0245d729a57bf57ff0e55d8e8911cb9")
      << "the layout changed: give kWeightLayoutName its next number, then note it and this digest";
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
