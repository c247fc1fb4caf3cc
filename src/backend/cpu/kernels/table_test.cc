#include "backend/cpu/kernels/table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "backend/cpu/kernels/instruction_set.h"

// Exact behaviour of kernels that the tests of whole ops do not show.
namespace nibble::cpu {

static void PrintTo(const InstructionSet& set, std::ostream* out) { *out << set.name; }

namespace {

class KernelsTest : public ::testing::TestWithParam<InstructionSet> {
 protected:
  void SetUp() override {
    if (!GetParam().is_supported()) GTEST_SKIP() << "this machine has no " << GetParam().title;
  }
  const Kernels& kernels() const { return *GetParam().kernels; }

  // silu(x) * 1 of up to 64 values.
  std::vector<float> Silu(const std::vector<float>& x) const {
    std::vector<float> sums(kTileRows), ones(kTileRows, 1.0f), out(x.size());
    std::ranges::copy(x, sums.begin());
    kernels().silu_tile(sums.data(), ones.data(), 1, static_cast<int64_t>(x.size()), out.data(),
                        kTileRows);
    return out;
  }
};

INSTANTIATE_TEST_SUITE_P(Sets, KernelsTest,
                         ::testing::ValuesIn(InstructionSets().begin(), InstructionSets().end()),
                         [](const auto& test) { return std::string(test.param.name); });

// A spacing of floats at `value`.
double Ulp(double value) {
  const float magnitude = std::abs(static_cast<float>(value));
  return static_cast<double>(std::nextafter(magnitude, std::numeric_limits<float>::infinity())) -
         static_cast<double>(magnitude);
}

TEST_P(KernelsTest, SiluIsExactToThreeUlps) {
  double worst = 0;
  for (double start = -80; start < 90; start += 0.37) {
    std::vector<float> x;
    for (int i = 0; i < 64; ++i) x.push_back(static_cast<float>(start + 0.0058 * i));
    const std::vector<float> actual = Silu(x);
    for (size_t i = 0; i < x.size(); ++i) {
      const auto v = static_cast<double>(x[i]);
      const double expected = v / (1.0 + std::exp(-v));
      worst = std::max(worst, std::abs(static_cast<double>(actual[i]) - expected) / Ulp(expected));
    }
  }
  EXPECT_LE(worst, 3.0);
}

TEST_P(KernelsTest, SiluOfExtremesIsWhatTheLimitsSay) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> out = Silu(
      {0.0f, -200.0f, -1e30f, 200.0f, 3e38f, infinity, std::numeric_limits<float>::quiet_NaN()});
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], 0.0f);
  EXPECT_EQ(out[3], 200.0f);
  EXPECT_EQ(out[4], 3e38f);
  EXPECT_EQ(out[5], infinity);
  EXPECT_TRUE(std::isnan(out[6]));
}

TEST_P(KernelsTest, FixedPointHoldsSixteenBits) {
  const PackedFormat format{.block_cols = 72,
                            .num_blocks = 2,
                            .block_bytes = 0,
                            .nibble_planes = 1,
                            .float_scales = false,
                            .zero_points = false};
  const int64_t cols = 131;  // the last block has 13 padding columns
  std::vector<float> x(cols);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i)) * 3.0f;
  x[7] = -5.0f;   // the largest of block 0
  x[100] = 4.5f;  // and of block 1
  std::vector<int8_t> planes(3 * 2 * 2 * 72, 77);
  std::vector<float> scales(6);
  std::vector<int32_t> sums(6);
  const FixedPointRows out{planes.data(), scales.data(), sums.data(), 3, 2};
  kernels().fix_row(x.data(), nullptr, cols, format, 1, out);
  for (int64_t block = 0; block < 2; ++block) {
    const float largest = block == 0 ? 5.0f : 4.5f;
    EXPECT_FLOAT_EQ(scales[block * 3 + 1], largest / 32639.0f);
    int32_t sum = 0;
    for (int64_t k = 0; k < 72; ++k) {
      const int8_t* const row = planes.data() + (block * 3 + 1) * 2 * 72;
      const int32_t fixed = 256 * row[k] + row[72 + k];
      sum += fixed;
      const int64_t column = block * 72 + k;
      const double value = column < cols ? static_cast<double>(x[column]) : 0;
      EXPECT_NEAR(fixed * static_cast<double>(largest) / 32639.0, value,
                  0.51 * static_cast<double>(largest) / 32639.0)
          << column;
    }
    EXPECT_EQ(sums[block * 3 + 1], sum);
  }
  for (const int64_t row : {0, 2, 3, 5}) {  // other rows are not touched
    EXPECT_EQ(planes[row * 144], 77);
    EXPECT_EQ(planes[row * 144 + 143], 77);
  }
}

TEST_P(KernelsTest, WritesOnlyTheColumnsThatExist) {
  std::vector<float> sums(2 * kTileRows, 2.0f);
  for (const int64_t width : {1, 15, 16, 17, 63, 64}) {
    std::vector<float> out(200, -1.0f);
    kernels().store_tile(sums.data(), 2, width, out.data(), 90);
    kernels().add_tile(sums.data(), 2, width, out.data(), 90);
    for (int64_t i = 0; i < 200; ++i) {
      const bool written = i < width || (i >= 90 && i < 90 + width);
      EXPECT_EQ(out[i], written ? 4.0f : -1.0f) << width << " " << i;
    }
  }
}

TEST_P(KernelsTest, ReadsMemoryToTheLastByteAndNotBeyond) {
  std::vector<char> data(1536, 0);
  const uint64_t zero = kernels().read_memory(data.data(), 1536);
  data.back() = 1;
  EXPECT_NE(kernels().read_memory(data.data(), 1536), zero);
}

}  // namespace
}  // namespace nibble::cpu
