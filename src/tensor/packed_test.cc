#include "tensor/packed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>

#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Dims {
  int64_t rows, cols;
};
constexpr Dims kDims[] = {{1, 1}, {1, 8}, {2, 7}, {3, 9}, {5, 4}, {17, 129}, {33, 256}};

std::vector<int8_t> RandomCodes(int64_t count, int bits, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> code(-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
  std::vector<int8_t> codes(count);
  for (int8_t& value : codes) value = static_cast<int8_t>(code(random));
  return codes;
}

// The code at (row, col), read bit by bit from the bytes of the file: bit b of code k of a row is
// bit bits * k + b of that row, counted from the lowest bit of its first byte.
int SlowCode(const TensorView& packed, int64_t row, int64_t col, int bits) {
  const int64_t row_bytes = packed.shape()[1] * 4;
  int code = 0;
  for (int b = 0; b < bits; ++b) {
    const int64_t bit = bits * col + b;
    const auto byte = std::to_integer<int>(packed.data()[row * row_bytes + bit / 8]);
    code |= ((byte >> (bit % 8)) & 1) << b;
  }
  return code - (1 << (bits - 1));
}

TEST(PackCodes, PutsTheFirstCodeInTheLowestBits) {
  std::vector<int8_t> codes(16);
  std::iota(codes.begin(), codes.end(), int8_t{-8});
  const Tensor packed = PackCodes(codes, 1, 16, 4);
  EXPECT_EQ(packed.shape(), (Shape{1, 2}));
  EXPECT_THAT(packed.As<int32_t>(), ElementsAre(0x76543210, static_cast<int32_t>(0xfedcba98u)));
  EXPECT_THAT(PackCodes(std::vector<int8_t>(8, 0), 1, 8, 4).As<int32_t>(),
              ElementsAre(static_cast<int32_t>(0x88888888u)));
  EXPECT_THAT(PackCodes(std::vector<int8_t>{-128, -1, 0, 127}, 1, 4, 8).As<int32_t>(),
              ElementsAre(static_cast<int32_t>(0xff807f00u)));
}

TEST(PackCodes, LeavesTheTailOfARowZero) {
  EXPECT_THAT(PackCodes(std::vector<int8_t>{0, 0, 0, 7, 7, 7}, 2, 3, 4).As<int32_t>(),
              ElementsAre(0x888, 0xfff));
}

TEST(PackCodes, AgreesWithTheBitsAndUnpacks) {
  for (const int bits : {4, 8}) {
    for (const auto [rows, cols] : kDims) {
      const std::vector<int8_t> codes = RandomCodes(rows * cols, bits, 7);
      const Tensor packed = PackCodes(codes, rows, cols, bits);
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t col = 0; col < cols; ++col) {
          ASSERT_EQ(SlowCode(packed.view(), row, col, bits), codes[row * cols + col]);
        }
      }
      EXPECT_EQ(UnpackCodes(packed.view(), rows, cols, bits), codes);
    }
  }
}

TEST(PackCodes, RefusesWhatDoesNotFit) {
  const auto error_of = [](auto action) -> std::string {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of([] { PackCodes(std::vector<int8_t>{8}, 1, 1, 4); }),
            "code 8 does not fit 4 bits");
  EXPECT_EQ(error_of([] { PackCodes(std::vector<int8_t>{-9}, 1, 1, 4); }),
            "code -9 does not fit 4 bits");
  EXPECT_THAT(error_of([] { PackCodes(std::vector<int8_t>{0}, 1, 1, 3); }), HasSubstr("found 3"));
  const Tensor packed(DType::kI32, {2, 2});
  EXPECT_THAT(error_of([&] { UnpackCodes(packed.view(), 2, 17, 4); }),
              HasSubstr("expected I32 [2, 3], found I32 [2, 2]"));
  const Tensor floats(DType::kF32, {2, 2});
  EXPECT_THAT(error_of([&] { UnpackCodes(floats.view(), 2, 16, 4); }), HasSubstr("found F32"));
}

TEST(PackZeroPoints, PacksDownTheRows) {
  std::vector<int8_t> zeros(16);  // column 0: -8..-1, column 1: 0..7
  for (size_t row = 0; row < 8; ++row) {
    zeros[2 * row] = static_cast<int8_t>(static_cast<int>(row) - 8);
    zeros[2 * row + 1] = static_cast<int8_t>(row);
  }
  const Tensor packed = PackZeroPoints(zeros, 8, 2, 4);
  EXPECT_EQ(packed.shape(), (Shape{1, 2}));
  EXPECT_THAT(packed.As<int32_t>(), ElementsAre(0x76543210, static_cast<int32_t>(0xfedcba98u)));
}

TEST(PackZeroPoints, EqualsPackingTheTranspose) {
  for (const int bits : {4, 8}) {
    for (const auto [rows, groups] : kDims) {
      const std::vector<int8_t> zeros = RandomCodes(rows * groups, bits, 11);
      std::vector<int8_t> transposed(zeros.size());
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t group = 0; group < groups; ++group) {
          transposed[group * rows + row] = zeros[row * groups + group];
        }
      }
      const Tensor packed = PackZeroPoints(zeros, rows, groups, bits);
      const Tensor by_rows = PackCodes(transposed, groups, rows, bits);
      for (int64_t word = 0; word < packed.shape()[0]; ++word) {
        for (int64_t group = 0; group < groups; ++group) {
          ASSERT_EQ(packed.As<int32_t>()[word * groups + group],
                    by_rows.As<int32_t>()[group * by_rows.shape()[1] + word]);
        }
      }
      EXPECT_EQ(UnpackZeroPoints(packed.view(), rows, groups, bits), zeros);
    }
  }
}

// A random packed Linear, with the codes, scales and zero points it was packed from.
struct Sample {
  PackedTensor tensor;
  std::vector<int8_t> codes, zeros;
  std::vector<float> scales;
  std::vector<int32_t> groups;

  float Value(int64_t row, int64_t col) const {
    const int64_t num_groups = tensor.cols / tensor.group_size;
    const auto at = static_cast<size_t>(row * num_groups + groups[col]);
    const int code = codes[row * tensor.cols + col] - zeros[at];
    return static_cast<float>(code) * scales[at];
  }
};

Sample MakeSample(int64_t rows, int64_t cols, int64_t group_size, int bits, DType scale_type,
                  bool asymmetric, bool ordered) {
  const int64_t num_groups = cols / group_size;
  Sample sample;
  sample.codes = RandomCodes(rows * cols, bits, 3);
  sample.zeros = std::vector<int8_t>(rows * num_groups, 0);
  if (asymmetric) sample.zeros = RandomCodes(rows * num_groups, bits, 5);
  std::mt19937 random(9);
  std::vector<float> scales(rows * num_groups);
  for (float& scale : scales) scale = std::uniform_real_distribution<float>(0.001f, 0.1f)(random);
  for (int64_t col = 0; col < cols; ++col)
    sample.groups.push_back(static_cast<int32_t>(col / group_size));
  if (ordered) std::shuffle(sample.groups.begin(), sample.groups.end(), random);

  PackedTensor& tensor = sample.tensor;
  tensor.bits = bits;
  tensor.rows = rows;
  tensor.cols = cols;
  tensor.group_size = group_size;
  tensor.packed = PackCodes(sample.codes, rows, cols, bits);
  tensor.scales = FromFloat(scales, scale_type, {rows, num_groups});
  sample.scales = ToFloat(tensor.scales.view());
  if (asymmetric) tensor.zero_point = PackZeroPoints(sample.zeros, rows, num_groups, bits);
  if (ordered) tensor.g_idx = Tensor::FromVector(sample.groups, {cols});
  return sample;
}

TEST(Dequantize, EqualsTheDefinitionInEveryVariant) {
  for (const int bits : {4, 8}) {
    for (const DType scale_type : {DType::kBF16, DType::kF16, DType::kF32}) {
      for (const bool asymmetric : {false, true}) {
        for (const bool ordered : {false, true}) {
          for (const int64_t group_size : {7, 35}) {  // five groups; one a row
            const Sample sample =
                MakeSample(19, 35, group_size, bits, scale_type, asymmetric, ordered);
            const std::vector<float> values = Dequantize(sample.tensor.view());
            for (int64_t row = 0; row < 19; ++row) {
              for (int64_t col = 0; col < 35; ++col) {
                ASSERT_EQ(values[row * 35 + col], sample.Value(row, col));
              }
            }
          }
        }
      }
    }
  }
}

TEST(DequantizeRows, GivesTheSameRowsAsTheWhole) {
  const Sample sample = MakeSample(21, 32, 16, 4, DType::kBF16, true, false);
  const std::vector<float> whole = Dequantize(sample.tensor.view());
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {5, 9}, {20, 1}, {21, 0}}) {
    std::vector<float> part(count * 32);
    DequantizeRows(sample.tensor.view(), first, count, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first * 32));
  }
}

}  // namespace
}  // namespace nibble
