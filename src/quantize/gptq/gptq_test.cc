#include "quantize/gptq/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "backend/cpu/algebra/host_algebra.h"
#include "backend/host/host_data.h"
#include "backend/reference/reference_algebra.h"
#include "base/float16.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A Linear and the inputs it was calibrated with.
struct Problem {
  int64_t rows, cols, tokens;
  Tensor weight;
  std::vector<float> x;  // [tokens, cols]

  std::vector<float> Hessian() const {
    std::vector<float> h(cols * cols, 0.0f);
    ReferenceAlgebra().GramUpdate(BorrowHost(x.data(), tokens, cols), nullptr, 0, tokens, h.data());
    return h;
  }
  DenseLinear linear() const { return {"layer.proj", weight.view()}; }
};

// Random weights, and inputs with correlated neighbours, which GPTQ can exploit.
Problem RandomProblem(int64_t rows, int64_t cols, int64_t tokens, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> w(rows * cols);
  for (float& value : w) value = 0.05f * normal(generator);
  Problem problem{rows, cols, tokens, FromFloat(w, DType::kBF16, Shape{rows, cols}), {}};
  for (int64_t token = 0; token < tokens; ++token) {
    float value = normal(generator);
    for (int64_t k = 0; k < cols; ++k) {
      value = 0.9f * value + 0.436f * normal(generator);
      problem.x.push_back(value);
    }
  }
  return problem;
}

// A linear congruential generator fills W, then X. The codes, scales and words expected of it are
// those of an independent implementation in double, with and without rounding decoded weights to
// bfloat16; the losses are those without, as here.
Problem GoldenProblem() {
  uint32_t state = 12345;
  const auto draw = [&state] {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(state >> 8) / 16777216.0f - 0.5f;
  };
  std::vector<float> w(32);
  for (float& value : w) value = 0.25f * draw();
  Problem problem{2, 16, 24, FromFloat(w, DType::kBF16, Shape{2, 16}), std::vector<float>(24 * 16)};
  for (float& value : problem.x) value = static_cast<float>(BFloat16(2.0f * draw()));
  return problem;
}

Recipe SmallRecipe(int64_t group_size) {
  Recipe recipe;
  recipe.group_size = group_size;
  return recipe;
}

QuantizedLinear Solve(const Recipe& recipe, const Problem& problem, GptqAlgebra& algebra,
                      std::vector<float> h) {
  const DenseLinear linear = problem.linear();
  return std::move(QuantizeWithHessian(recipe, DType::kBF16, {&linear, 1}, h.data(), problem.tokens,
                                       algebra)[0]);
}

QuantizedLinear Solve(const Recipe& recipe, const Problem& problem) {
  ReferenceAlgebra algebra;
  return Solve(recipe, problem, algebra, problem.Hessian());
}

std::vector<int> Codes(const PackedTensor& packed) {
  const auto codes = UnpackCodes(packed.packed.view(), packed.rows, packed.cols, packed.bits);
  return {codes.begin(), codes.end()};
}

std::vector<uint32_t> Words(const PackedTensor& packed) {
  std::vector<uint32_t> words;
  for (const int32_t word : packed.packed.As<int32_t>())
    words.push_back(static_cast<uint32_t>(word));
  return words;
}

// The energy tr(D H D^T), H = 2 X^T X, of the difference D between original and dequantized
// weights.
double OutputError(const Problem& problem, const PackedTensor& packed) {
  const std::vector<float> w = ToFloat(problem.weight.view());
  const std::vector<float> decoded = Dequantize(packed.view());
  double sum = 0;
  for (int64_t row = 0; row < problem.rows; ++row) {
    for (int64_t token = 0; token < problem.tokens; ++token) {
      double y = 0;
      for (int64_t k = 0; k < problem.cols; ++k) {
        const auto at = static_cast<size_t>(row * problem.cols + k);
        y += static_cast<double>(w[at] - decoded[at]) *
             static_cast<double>(problem.x[token * problem.cols + k]);
      }
      sum += 2 * y * y;
    }
  }
  return sum;
}

double OutputEnergy(const Problem& problem) {
  double sum = 0;
  const std::vector<float> w = ToFloat(problem.weight.view());
  for (int64_t row = 0; row < problem.rows; ++row) {
    for (int64_t token = 0; token < problem.tokens; ++token) {
      double y = 0;
      for (int64_t k = 0; k < problem.cols; ++k) {
        y += static_cast<double>(w[row * problem.cols + k]) *
             static_cast<double>(problem.x[token * problem.cols + k]);
      }
      sum += 2 * y * y;
    }
  }
  return sum;
}

TEST(Gptq, GoldenRoundingToNearest) {
  const Problem problem = GoldenProblem();
  ASSERT_EQ(problem.weight.As<BFloat16>()[0].bits(), 0xbdf6);
  ReferenceAlgebra algebra;
  const DenseLinear linear = problem.linear();
  const auto result = RoundToNearest(SmallRecipe(8), DType::kBF16, {&linear, 1}, algebra);
  EXPECT_THAT(Codes(result[0].packed),
              ElementsAre(-7, -8, 1, 2, 6, -6, 0, 1, 2, 5, -7, 4, 7, -7, 3, -1,  //
                          -2, 7, -1, 7, 7, 2, -1, 0, -3, -1, 3, -5, -6, 5, -3, -8));
  EXPECT_EQ(result[0].report.method, "rtn");
  EXPECT_NEAR(OutputError(problem, result[0].packed), 0.0127526, 5e-8);
}

TEST(Gptq, GoldenInNaturalOrder) {
  const Problem problem = GoldenProblem();
  ThreadPool pool(2);
  const auto openblas = MakeHostAlgebra(pool);
  ReferenceAlgebra reference;
  for (GptqAlgebra* algebra : {static_cast<GptqAlgebra*>(&reference), openblas.get()}) {
    for (const int64_t block_size : {1, 4, 5, 8, 16, 128}) {
      Recipe recipe = SmallRecipe(8);
      recipe.block_size = block_size;
      const QuantizedLinear result = Solve(recipe, problem, *algebra, problem.Hessian());
      std::vector<uint16_t> scales;
      for (const BFloat16 scale : result.packed.scales.As<BFloat16>())
        scales.push_back(scale.bits());
      EXPECT_THAT(scales, ElementsAre(0x3c84, 0x3c7e, 0x3c87, 0x3c86));
      EXPECT_THAT(Codes(result.packed),
                  ElementsAre(-7, -7, 1, 2, 6, -6, 0, 1, 2, 4, -8, 4, 7, -7, 3, -1,  //
                              -2, 7, -2, 7, 7, 2, -1, 0, -3, -2, 3, -5, -6, 6, -3, -8));
      EXPECT_THAT(Words(result.packed),
                  ElementsAre(0x982ea911u, 0x7b1fc0cau, 0x87aff6f6u, 0x05e23b65u));
      EXPECT_NEAR(result.report.loss, 0.00526847, 5e-9);
      EXPECT_EQ(result.report.method, "gptq");
      EXPECT_EQ(result.report.dampening, 0.1);
      const double energy = OutputEnergy(problem);
      EXPECT_NEAR(result.report.relative_error, 0.0086958 / energy, 1e-7);
      EXPECT_NEAR(result.report.relative_error_rtn, 0.0127526 / energy, 1e-7);
      EXPECT_FALSE(result.packed.g_idx.has_value());
      EXPECT_FALSE(result.packed.zero_point.has_value());
    }
  }
}

TEST(Gptq, GoldenInStaticOrder) {
  const Problem problem = GoldenProblem();
  Recipe recipe = SmallRecipe(8);
  recipe.act_order = ActOrder::kStatic;
  const QuantizedLinear result = Solve(recipe, problem);
  EXPECT_THAT(Codes(result.packed),
              ElementsAre(-8, -8, 0, 2, 7, -6, 0, 1, 2, 5, -7, 4, 7, -7, 4, 0,  //
                          -2, 7, -2, 7, 7, 2, -1, 0, -3, -2, 3, -5, -6, 6, -3, -8));
  EXPECT_THAT(Words(result.packed),
              ElementsAre(0x982fa800u, 0x8c1fc1dau, 0x87aff6f6u, 0x05e23b65u));
  EXPECT_NEAR(result.report.loss, 0.00491999, 5e-9);
  EXPECT_NEAR(OutputError(problem, result.packed), 0.0075231, 5e-8);
  EXPECT_FALSE(result.packed.g_idx.has_value());
}

// Odd shapes: rows and columns that are not a multiple of the block, groups across blocks.
TEST(Gptq, FastAlgebraAgreesWithReferenceAndBeatsRounding) {
  ThreadPool pool(2);
  const auto openblas = MakeHostAlgebra(pool);
  struct Case {
    int64_t rows, cols, group;
  };
  for (const auto& [rows, cols, group] : {Case{1, 32, 32}, Case{60, 96, 32}, Case{61, 192, 64},
                                          Case{130, 200, -1}, Case{9, 384, 128}}) {
    for (const bool symmetric : {true, false}) {
      for (const int bits : {4, 8}) {
        const Problem problem = RandomProblem(rows, cols, 3 * cols, 1);
        Recipe recipe = SmallRecipe(group);
        recipe.symmetric = symmetric;
        recipe.bits = bits;
        const QuantizedLinear expected = Solve(recipe, problem);
        const QuantizedLinear found = Solve(recipe, problem, *openblas, problem.Hessian());
        const std::vector<int> a = Codes(expected.packed), b = Codes(found.packed);
        int64_t different = 0;
        for (size_t i = 0; i < a.size(); ++i) {
          different += a[i] != b[i];
          EXPECT_LE(std::abs(a[i] - b[i]), 1);
        }
        // A tie broken differently early in a row changes the codes after it.
        EXPECT_LE(different, static_cast<int64_t>(a.size()) / 50) << rows << "x" << cols;
        EXPECT_LT(found.report.ratio_to_rtn(), rows > 1 ? 0.9 : 1.0)
            << rows << "x" << cols << " " << bits;
        EXPECT_EQ(found.packed.zero_point.has_value(), !symmetric);

        // The figures in the report equal those computed from the stored tensors.
        if (rows <= 64) {  // beyond that, of a sample of the rows
          const double energy = OutputEnergy(problem);
          const double error = OutputError(problem, found.packed) / energy;
          EXPECT_NEAR(found.report.relative_error / error, 1.0, 1e-2);
          const DenseLinear linear = problem.linear();
          const auto rounded = RoundToNearest(recipe, DType::kBF16, {&linear, 1}, *openblas);
          EXPECT_NEAR(
              found.report.relative_error_rtn * energy / OutputError(problem, rounded[0].packed),
              1.0, 1e-3);
        }
      }
    }
  }
}

TEST(Gptq, GroupOrderStoresWhereEachColumnsScaleIs) {
  const Problem problem = RandomProblem(40, 96, 300, 2);
  Recipe recipe = SmallRecipe(32);
  recipe.act_order = ActOrder::kGroup;
  const QuantizedLinear result = Solve(recipe, problem);
  ASSERT_TRUE(result.packed.g_idx.has_value());
  std::vector<int> histogram(3);
  for (const int32_t group : result.packed.g_idx->As<int32_t>()) ++histogram.at(group);
  EXPECT_THAT(histogram, ElementsAre(32, 32, 32));
  EXPECT_LT(result.report.ratio_to_rtn(), 0.9);
  EXPECT_NEAR(result.report.relative_error,
              OutputError(problem, result.packed) / OutputEnergy(problem), 1e-6);
}

TEST(Gptq, StaticOrderFollowsThePermutationOfItsInputs) {
  // Renaming the inputs renames the codes, as long as a group is the whole row.
  const Problem problem = RandomProblem(20, 48, 200, 3);
  std::vector<size_t> renamed(48);
  for (size_t k = 0; k < 48; ++k) renamed[k] = (k * 31 + 7) % 48;
  const std::vector<float> w = ToFloat(problem.weight.view());
  std::vector<float> w2(w.size()), x2(problem.x.size());
  for (size_t k = 0; k < 48; ++k) {
    for (size_t row = 0; row < 20; ++row) w2[row * 48 + renamed[k]] = w[row * 48 + k];
    for (size_t token = 0; token < 200; ++token) {
      x2[token * 48 + renamed[k]] = problem.x[token * 48 + k];
    }
  }
  const Problem other{20, 48, 200, FromFloat(w2, DType::kBF16, Shape{20, 48}), x2};
  Recipe recipe = SmallRecipe(-1);
  recipe.act_order = ActOrder::kStatic;
  const std::vector<int> a = Codes(Solve(recipe, problem).packed),
                         b = Codes(Solve(recipe, other).packed);
  for (size_t row = 0; row < 20; ++row) {
    for (size_t k = 0; k < 48; ++k) EXPECT_EQ(a[row * 48 + k], b[row * 48 + renamed[k]]);
  }
}

TEST(Gptq, ColumnsThatWereAlwaysZeroKeepTheirRounding) {
  Problem problem = RandomProblem(12, 64, 100, 4);
  for (int64_t token = 0; token < problem.tokens; ++token) {
    for (const int64_t k : {0, 30, 63}) problem.x[token * 64 + k] = 0;
  }
  Recipe recipe = SmallRecipe(32);
  ReferenceAlgebra algebra;
  const DenseLinear linear = problem.linear();
  const auto rounded = RoundToNearest(recipe, DType::kBF16, {&linear, 1}, algebra);
  const std::vector<int> rtn = Codes(rounded[0].packed);
  for (const ActOrder order : {ActOrder::kNone, ActOrder::kStatic}) {
    recipe.act_order = order;
    const QuantizedLinear kept = Solve(recipe, problem);
    EXPECT_EQ(kept.report.dead_columns, 3);
    recipe.dead_columns = DeadColumns::kZero;
    const std::vector<int> zeroed = Codes(Solve(recipe, problem).packed);
    recipe.dead_columns = DeadColumns::kKeep;
    const std::vector<int> codes = Codes(kept.packed);
    for (size_t row = 0; row < 12; ++row) {
      for (const size_t k : {size_t{0}, size_t{30}, size_t{63}}) {
        EXPECT_EQ(codes[row * 64 + k], rtn[row * 64 + k]);
        EXPECT_EQ(zeroed[row * 64 + k], 0);
      }
    }
    EXPECT_NEAR(kept.report.relative_error,
                OutputError(problem, kept.packed) / OutputEnergy(problem), 1e-6);
  }
}

TEST(Gptq, InputsThatAreZeroInAllTokensAreRounded) {
  Problem problem = RandomProblem(5, 32, 10, 5);
  std::fill(problem.x.begin(), problem.x.end(), 0.0f);
  const Recipe recipe = SmallRecipe(32);
  ReferenceAlgebra algebra;
  const DenseLinear linear = problem.linear();
  EXPECT_EQ(Codes(Solve(recipe, problem).packed),
            Codes(RoundToNearest(recipe, DType::kBF16, {&linear, 1}, algebra)[0].packed));
}

TEST(Gptq, RankOneStatisticsAreSurvived) {
  for (const int64_t tokens : {1, 50}) {
    Problem problem = RandomProblem(6, 64, tokens, 6);
    for (int64_t token = 1; token < tokens; ++token) {
      std::copy(problem.x.begin(), problem.x.begin() + 64, problem.x.begin() + token * 64);
    }
    const QuantizedLinear result = Solve(SmallRecipe(32), problem);
    EXPECT_EQ(result.report.method, "gptq");
    EXPECT_LT(result.report.ratio_to_rtn(), 0.5);
  }
}

TEST(Gptq, ClimbsTheLadderOfDampingsAndSaysSo) {
  const Problem problem = RandomProblem(6, 32, 100, 7);
  Recipe recipe = SmallRecipe(32);
  recipe.dampening = 0.001;
  std::vector<float> h = problem.Hessian();
  // Not positive definite until half the mean diagonal is added.
  double mean = 0;
  for (size_t i = 0; i < 32; ++i) mean += static_cast<double>(h[i * 32 + i]) / 32;
  h[1] = h[0] + static_cast<float>(0.12 * mean);
  h[33] = h[0];
  ReferenceAlgebra algebra;
  const QuantizedLinear result = Solve(recipe, problem, algebra, h);
  EXPECT_EQ(result.report.method, "gptq");
  EXPECT_GT(result.report.retries, 0);
  EXPECT_GT(result.report.dampening, 0.01);
}

TEST(Gptq, RoundsToNearestWhenNoDampingHelps) {
  const Problem problem = RandomProblem(6, 32, 100, 8);
  const Recipe recipe = SmallRecipe(32);
  std::vector<float> h = problem.Hessian();
  h[1] = 100 * h[0];  // not a Gram matrix
  ReferenceAlgebra algebra;
  const QuantizedLinear result = Solve(recipe, problem, algebra, h);
  EXPECT_EQ(result.report.method, "rtn");
  EXPECT_EQ(result.report.retries, 5);
  const DenseLinear linear = problem.linear();
  EXPECT_EQ(Codes(result.packed),
            Codes(RoundToNearest(recipe, DType::kBF16, {&linear, 1}, algebra)[0].packed));
}

TEST(Gptq, LinearsThatShareAnInputShareItsFactor) {
  const Problem first = RandomProblem(33, 64, 200, 9);
  Problem second = RandomProblem(70, 64, 200, 10);
  second.x = first.x;
  const Recipe recipe = SmallRecipe(32);
  ReferenceAlgebra algebra;
  std::vector<float> h = first.Hessian();
  const DenseLinear linears[] = {{"a", first.weight.view()}, {"b", second.weight.view()}};
  const auto both = QuantizeWithHessian(recipe, DType::kBF16, linears, h.data(), 200, algebra);
  EXPECT_EQ(Codes(both[0].packed), Codes(Solve(recipe, first).packed));
  EXPECT_EQ(Codes(both[1].packed), Codes(Solve(recipe, second).packed));
  EXPECT_EQ(both[1].report.module, "b");
}

TEST(Gptq, BytesDoNotDependOnThreadsOrNesting) {
  const Problem problem = RandomProblem(300, 256, 500, 11);
  const Recipe recipe = SmallRecipe(64);
  ThreadPool one(1), three(3);
  const auto a = MakeHostAlgebra(one), b = MakeHostAlgebra(three);
  const std::vector<uint32_t> expected =
      Words(Solve(recipe, problem, *a, problem.Hessian()).packed);
  EXPECT_EQ(Words(Solve(recipe, problem, *b, problem.Hessian()).packed), expected);
  std::vector<std::vector<uint32_t>> nested(3);
  b->threads().ParallelFor(3, [&](int64_t i, int) {
    nested[i] = Words(Solve(recipe, problem, *b, problem.Hessian()).packed);
  });
  for (const auto& words : nested) EXPECT_EQ(words, expected);
}

TEST(Gptq, BadInputIsNamed) {
  ReferenceAlgebra algebra;
  const auto message = [&](const Problem& problem, const Recipe& recipe, std::vector<float> h) {
    try {
      Solve(recipe, problem, algebra, std::move(h));
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  Problem problem = RandomProblem(6, 32, 40, 12);
  std::vector<float> h = problem.Hessian();
  EXPECT_THAT(message(problem, SmallRecipe(24), h), HasSubstr("layer.proj: its 32 inputs"));
  std::vector<float> w = ToFloat(problem.weight.view());
  w[2 * 32 + 5] = NAN;
  problem.weight = FromFloat(w, DType::kBF16, Shape{6, 32});
  EXPECT_THAT(message(problem, SmallRecipe(32), h),
              HasSubstr("layer.proj.weight: the value at [2, 5]"));
  h[0] = INFINITY;
  EXPECT_THAT(message(RandomProblem(6, 32, 40, 12), SmallRecipe(32), h), HasSubstr("layer.proj"));
}

}  // namespace
}  // namespace nibble
