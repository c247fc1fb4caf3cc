#include "quantize/gptq/hessian_factor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "backend/host/host_data.h"
#include "backend/reference/reference_algebra.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;

std::vector<float> RandomGram(int64_t n) {
  std::mt19937 generator(4);
  std::normal_distribution<float> normal;
  std::vector<float> x(3 * n * n), h(static_cast<size_t>(n * n));
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = normal(generator) * (1.0f + static_cast<float>(i % static_cast<size_t>(n)));
  }
  ReferenceAlgebra().GramUpdate(BorrowHost(x.data(), 3 * n, n), nullptr, 0, 3 * n, h.data());
  return h;
}

// U H U^T, H damped and in sweep order, must be the identity.
void ExpectFactors(const HessianFactor& factor, const std::vector<float>& gram) {
  const int64_t n = factor.size();
  const auto h = [&](int64_t i, int64_t j) {
    const int64_t a = factor.order()[i];
    const int64_t b = factor.order()[j];
    const double value = 2 * static_cast<double>(gram[std::min(a, b) * n + std::max(a, b)]);
    return i == j ? value + static_cast<double>(factor.damping_added()) : value;
  };
  const auto u = [&](int64_t i, int64_t j) {
    return j < i ? 0.0 : static_cast<double>(factor.factor()[i * n + j]);
  };
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t a = 0; a < n; ++a) {
        for (int64_t b = 0; b < n; ++b) sum += u(i, a) * h(a, b) * u(j, b);
      }
      EXPECT_NEAR(sum, i == j ? 1 : 0, 1e-4);
    }
  }
}

TEST(HessianFactor, FactorsTheInverseInNaturalAndInActivationOrder) {
  ReferenceAlgebra algebra;
  for (const ActOrder order : {ActOrder::kNone, ActOrder::kStatic, ActOrder::kGroup}) {
    Recipe recipe;
    recipe.act_order = order;
    const std::vector<float> gram = RandomGram(9);
    std::vector<float> h = gram;
    HessianFactor factor(recipe, h.data(), 9, algebra);
    EXPECT_EQ(factor.diagonal()[2], 2 * gram[2 * 9 + 2]);
    ASSERT_TRUE(factor.Factor());
    EXPECT_EQ(factor.retries(), 0);
    if (order == ActOrder::kNone) {
      EXPECT_THAT(factor.order(), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
    } else {
      for (size_t i = 1; i < 9; ++i) {
        EXPECT_GE(factor.diagonal()[factor.order()[i - 1]], factor.diagonal()[factor.order()[i]]);
      }
    }
    ExpectFactors(factor, gram);
  }
}

TEST(HessianFactor, QuadraticFormsAreOfTheWholeSymmetricMatrix) {
  ReferenceAlgebra algebra;
  std::vector<float> h = {1, 2, -7, 3};  // the part below the diagonal is not read
  const Recipe recipe;
  const HessianFactor factor(recipe, h.data(), 2, algebra);
  const std::vector<float> x = {1, 0, 1, 0, 1, 2};  // columns (1, 0), (0, 1), (1, 2)
  EXPECT_THAT(factor.QuadraticForms(x.data(), 3), ElementsAre(2, 6, 2 + 2 * 2 * 4 + 4 * 6));
}

TEST(HessianFactor, QuadraticFormsDoNotDependOnPanels) {
  ReferenceAlgebra algebra;
  const Recipe recipe;
  constexpr int64_t kSize = 301;              // of three panels
  std::vector<float> h(kSize * kSize, 1.0f);  // H is all twos
  const HessianFactor factor(recipe, h.data(), kSize, algebra);
  std::vector<float> x;
  double sum = 0;
  for (int64_t i = 0; i < kSize; ++i) {
    x.push_back(static_cast<float>(i % 7 - 2));
    x.push_back(1.0f);
    sum += static_cast<double>(i % 7 - 2);
  }
  EXPECT_THAT(factor.QuadraticForms(x.data(), 2),
              ElementsAre(2 * sum * sum, static_cast<double>(2 * kSize * kSize)));
}

TEST(HessianFactor, EqualDiagonalsKeepTheirOrder) {
  ReferenceAlgebra algebra;
  std::vector<float> h = {1, 0, 0, 0, 0, 5, 0, 0, 0, 0, 1, 0, 0, 0, 0, 5};
  Recipe recipe;
  recipe.act_order = ActOrder::kStatic;
  const HessianFactor factor(recipe, h.data(), 4, algebra);
  EXPECT_THAT(factor.order(), ElementsAre(1, 3, 0, 2));
}

TEST(HessianFactor, DeadColumnsStandAsOnes) {
  ReferenceAlgebra algebra;
  std::vector<float> h = {3, 0, 0, 0};
  Recipe recipe;
  recipe.dampening = 0.5;
  HessianFactor factor(recipe, h.data(), 2, algebra);
  EXPECT_EQ(factor.num_dead(), 1);
  EXPECT_TRUE(factor.is_dead(1));
  ASSERT_TRUE(factor.Factor());
  EXPECT_EQ(factor.damping_added(), 0.5f * (6 + 1) / 2);
  EXPECT_FLOAT_EQ(factor.factor()[3], 1 / std::sqrt(1 + 1.75f));
}

TEST(HessianFactor, DampsMoreUntilItFactors) {
  ReferenceAlgebra algebra;
  Recipe recipe;
  recipe.dampening = 0.001;
  const std::vector<float> gram = {1, 1.05f, 0, 1};  // an eigenvalue below zero
  std::vector<float> h = gram;
  HessianFactor factor(recipe, h.data(), 2, algebra);
  ASSERT_TRUE(factor.Factor());
  EXPECT_EQ(factor.retries(), 4);  // 0.001, 0.01, 0.02, 0.04, 0.08
  EXPECT_DOUBLE_EQ(factor.dampening(), 0.08);
  ExpectFactors(factor, gram);
  h = {1, 100, 0, 1};
  HessianFactor hopeless(recipe, h.data(), 2, algebra);
  EXPECT_FALSE(hopeless.Factor());
  EXPECT_EQ(hopeless.retries(), 5);
}

}  // namespace
}  // namespace nibble
