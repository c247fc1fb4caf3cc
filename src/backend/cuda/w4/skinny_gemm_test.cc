#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backend/cuda/emulator/warp.h"
#include "backend/cuda/w4/skinny_gemm-inl.h"
#include "backend/cuda/w4/w4_pack.h"

namespace nibble::cuda {
namespace {

struct Weight {
  int64_t rows, cols;
  std::vector<int8_t> codes;
  std::vector<BFloat16> scales;
  PackedTensor packed;

  double At(int64_t row, int64_t col) const {
    return static_cast<double>(codes[static_cast<size_t>(row * cols + col)]) *
           static_cast<double>(
               static_cast<float>(scales[static_cast<size_t>((row * cols + col) / 128)]));
  }
};

Weight RandomWeight(int64_t rows, int64_t cols, uint64_t seed) {
  std::mt19937_64 random(seed);
  Weight w{rows, cols, {}, {}, {}};
  for (int64_t i = 0; i < rows * cols; ++i) {
    w.codes.push_back(static_cast<int8_t>(static_cast<int>(random() % 16) - 8));
    if (i % 128 == 0) {
      w.scales.emplace_back(0.01f + static_cast<float>(random() % 1000) * 1e-5f);
    }
  }
  w.packed = {.bits = 4,
              .rows = rows,
              .cols = cols,
              .group_size = 128,
              .packed = PackCodes(w.codes, rows, cols, 4),
              .scales = Tensor::FromVector(w.scales, Shape{rows, cols / 128}),
              .zero_point = std::nullopt,
              .g_idx = std::nullopt};
  return w;
}

std::vector<BFloat16> RandomTokens(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<BFloat16> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.emplace_back(normal(random));
  return tokens;
}

// The whole product [tokens, padded rows], warp by warp and group by group, as the kernel computes
// it from shared memory.
template <int kRowTiles, int kTokenTiles>
std::vector<float> Multiply(const W4Layout& layout, const std::vector<std::byte>& bytes,
                            const std::vector<BFloat16>& tokens, int num_tokens) {
  const int64_t rows = layout.padded_rows();
  std::vector<float> result(static_cast<size_t>(num_tokens * rows), NAN);
  std::vector<std::byte> staged(static_cast<size_t>(kTokenTiles * 8 * kTokenPitch));
  for (int64_t panel = 0; panel < layout.num_panels(); ++panel) {
    for (int first = 0; first < layout.panel_rows / 16; first += kRowTiles) {
      SkinnySums<Emulated, kRowTiles, kTokenTiles> sums;
      ClearSums(sums);
      for (int64_t group = 0; group < layout.num_groups(); ++group) {
        std::fill(staged.begin(), staged.end(), std::byte{0});
        for (int t = 0; t < num_tokens; ++t) {
          std::memcpy(&staged[static_cast<size_t>(t * kTokenPitch)],
                      &tokens[static_cast<size_t>(t * layout.cols + group * 128)], 256);
        }
        MultiplyGroup(
            &bytes[static_cast<size_t>(layout.RecordOffset(panel * layout.panel_rows, group))],
            first, staged.data(), sums);
      }
      for (int lane = 0; lane < 32; ++lane) {
        for (int r = 0; r < kRowTiles; ++r) {
          for (int n = 0; n < kTokenTiles; ++n) {
            for (int e = 0; e < 4; ++e) {
              const int token = SumToken(lane, n, e);
              if (token >= num_tokens) continue;
              const int64_t row = panel * layout.panel_rows + SumRow(lane, first + r, e);
              float& to = result[static_cast<size_t>(token * rows + row)];
              EXPECT_TRUE(std::isnan(to)) << "written twice";
              to = sums.value[r][n][e][lane];
            }
          }
        }
      }
    }
  }
  return result;
}

template <int kRowTiles, int kTokenTiles>
void CheckAgainstDouble(int64_t rows, int64_t cols, int num_tokens) {
  SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", " << num_tokens << " tokens in "
                                    << kTokenTiles << " tiles, " << kRowTiles << " row tiles");
  ThreadPool pool(1);
  const Weight weight = RandomWeight(rows, cols, static_cast<uint64_t>(rows + cols));
  const std::vector<BFloat16> tokens = RandomTokens(num_tokens * cols, 7);
  const W4Part part = W4Part::Whole(weight.packed.view());
  const W4Layout layout = LayoutOfW4(part);
  std::vector<std::byte> bytes(static_cast<size_t>(layout.size_bytes()));
  PackW4(part, bytes, pool);
  const std::vector<float> result =
      Multiply<kRowTiles, kTokenTiles>(layout, bytes, tokens, num_tokens);
  double error = 0;
  double norm = 0;
  for (int t = 0; t < num_tokens; ++t) {
    for (int64_t row = 0; row < layout.padded_rows(); ++row) {
      double expected = 0;
      for (int64_t k = 0; row < rows && k < cols; ++k) {
        expected +=
            weight.At(row, k) *
            static_cast<double>(static_cast<float>(tokens[static_cast<size_t>(t * cols + k)]));
      }
      const auto found =
          static_cast<double>(result[static_cast<size_t>(t * layout.padded_rows() + row)]);
      error += (found - expected) * (found - expected);
      norm += expected * expected;
    }
  }
  EXPECT_LT(std::sqrt(error / norm), 3e-7);  // float sums of exact products
}

TEST(SkinnyGemm, AgreesWithDoubleForEveryTokenTile) {
  CheckAgainstDouble<2, 1>(64, 128, 1);
  CheckAgainstDouble<2, 1>(250, 256, 8);
  CheckAgainstDouble<2, 2>(128, 384, 13);
  CheckAgainstDouble<2, 3>(64, 256, 17);
  CheckAgainstDouble<2, 4>(64, 128, 31);
  CheckAgainstDouble<1, 6>(65, 128, 45);
  CheckAgainstDouble<2, 8>(256, 128, 64);
}

// A token's result has the same bits for every tile size and any batch mates.
TEST(SkinnyGemm, ATokenDoesNotDependOnItsMates) {
  ThreadPool pool(1);
  const Weight weight = RandomWeight(64, 384, 1);
  const std::vector<BFloat16> tokens = RandomTokens(int64_t{40} * 384, 2);
  const W4Layout layout = MakeW4Layout(64, 384);
  std::vector<std::byte> bytes(static_cast<size_t>(layout.size_bytes()));
  PackW4(W4Part::Whole(weight.packed.view()), bytes, pool);
  const std::vector<float> together = Multiply<2, 5>(layout, bytes, tokens, 40);
  for (const int token : {0, 7, 8, 39}) {
    const std::vector<BFloat16> alone(tokens.begin() + token * 384,
                                      tokens.begin() + (token + 1) * 384);
    const std::vector<float> one = Multiply<1, 1>(layout, bytes, alone, 1);
    for (size_t row = 0; row < 64; ++row) {
      ASSERT_EQ(one[row], together[static_cast<size_t>(token) * 64 + row]);
    }
  }
}

TEST(SkinnyGemm, GateAndUpMeetInALane) {
  ThreadPool pool(1);
  constexpr int64_t kMiddle = 40;
  constexpr int64_t kCols = 256;
  constexpr int kTokens = 11;
  const Weight gate = RandomWeight(kMiddle, kCols, 3);
  const Weight up = RandomWeight(kMiddle, kCols, 4);
  const std::vector<BFloat16> tokens = RandomTokens(kTokens * kCols, 5);
  const W4Part gate_part = W4Part::Whole(gate.packed.view());
  const W4Part up_part = W4Part::Whole(up.packed.view());
  const W4Layout layout = LayoutOfW4GateUp(gate_part, up_part);
  std::vector<std::byte> bytes(static_cast<size_t>(layout.size_bytes()));
  PackW4GateUp(gate_part, up_part, bytes, pool);

  std::vector<double> found(static_cast<size_t>(kTokens * kMiddle), NAN);
  std::vector<std::byte> staged(16 * kTokenPitch);
  for (int64_t panel = 0; panel < layout.num_panels(); ++panel) {
    for (int first = 0; first < layout.panel_rows / 16; ++first) {
      SkinnySums<Emulated, 1, 2> sums;
      ClearSums(sums);
      for (int64_t group = 0; group < 2; ++group) {
        for (int t = 0; t < kTokens; ++t) {
          std::memcpy(&staged[static_cast<size_t>(t * kTokenPitch)],
                      &tokens[static_cast<size_t>(t * kCols + group * 128)], 256);
        }
        MultiplyGroup(
            &bytes[static_cast<size_t>(layout.RecordOffset(panel * layout.panel_rows, group))],
            first, staged.data(), sums);
      }
      for (int n = 0; n < 2; ++n) {
        for (int e = 0; e < 2; ++e) {
          const Lanes<float> middle =
              SwiGlu<Emulated>(sums.value[0][n][e], sums.value[0][n][e + 2]);
          for (int lane = 0; lane < 32; ++lane) {
            const int64_t row = panel * layout.panel_rows + SumRow(lane, first, e);
            const int64_t feature = row / 16 * 8 + row % 8;
            const int token = SumToken(lane, n, e);
            if (token < kTokens && feature < kMiddle) {
              found[static_cast<size_t>(token * kMiddle + feature)] =
                  static_cast<double>(middle[lane]);
            }
          }
        }
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int64_t feature = 0; feature < kMiddle; ++feature) {
      double g = 0;
      double u = 0;
      for (int64_t k = 0; k < kCols; ++k) {
        const auto x =
            static_cast<double>(static_cast<float>(tokens[static_cast<size_t>(t * kCols + k)]));
        g += gate.At(feature, k) * x;
        u += up.At(feature, k) * x;
      }
      const double expected = g / (1 + std::exp(-g)) * u;
      ASSERT_NEAR(found[static_cast<size_t>(t * kMiddle + feature)], expected,
                  1e-5 * (1 + std::abs(expected)))
          << t << " " << feature;
    }
  }
}

// ldmatrix loads the fragments that mma expects: each B element is the right input of the right
// token.
TEST(SkinnyGemm, TokensArriveAsTheManualSays) {
  std::vector<std::byte> staged(24 * kTokenPitch);
  for (int token = 0; token < 24; ++token) {
    for (int k = 0; k < 128; ++k) {
      const auto tag = static_cast<uint16_t>(token * 128 + k);
      std::memcpy(&staged[static_cast<size_t>(token * kTokenPitch + 2 * k)], &tag, sizeof tag);
    }
  }
  // Elements b0..b3 of a lane: the row of B is the input, the column the token.
  const auto check = [](uint32_t pair, int lane, int i, int first_token, int first_input) {
    const int k = first_input + lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    const int token = first_token + (lane >> 2);
    EXPECT_EQ(static_cast<int>(pair >> (16 * (i & 1)) & 0xffff), token * 128 + k);
  };
  Lanes<uint32_t> b[4];
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      for (int block = 0; block < 8; ++block) {
        LoadTokenPair<Emulated>(staged.data(), block, 1, b);
        check(b[i / 2][lane], lane, i, 8, block * 16);
        check(b[2 + i / 2][lane], lane, i, 16, block * 16);
      }
      for (int block = 0; block < 4; ++block) {
        LoadSingleToken<Emulated>(staged.data(), block, 2, b);
        check(b[i / 2][lane], lane, i, 16, block * 32);
        check(b[2 + i / 2][lane], lane, i, 16, block * 32 + 16);
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
