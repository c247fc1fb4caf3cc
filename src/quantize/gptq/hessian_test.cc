#include "quantize/gptq/hessian.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "backend/reference/reference_linalg.h"

namespace nibble {
namespace {

TEST(Hessian, SumsInputsAndCountsThem) {
  ReferenceLinalg linalg;
  Hessian h(2);
  const std::vector<float> x = {1, 2, 3, 4};
  h.Add(x.data(), nullptr, 2, linalg);
  h.Add(x.data(), nullptr, 1, linalg);
  EXPECT_EQ(h.tokens(), 3);
  EXPECT_EQ(h.data()[0], 1 + 9 + 1);
  EXPECT_EQ(h.data()[1], 2 + 12 + 2);
  EXPECT_EQ(h.data()[2], 0);  // below the diagonal
  EXPECT_EQ(h.data()[3], 4 + 16 + 4);
  const Hessian moved = std::move(h);
  EXPECT_EQ(moved.tokens(), 3);
}

TEST(Hessian, KnowsWhenASumIsLost) {
  ReferenceLinalg linalg;
  for (const float bad : {NAN, INFINITY, 1e30f}) {
    Hessian h(3);
    EXPECT_TRUE(h.finite());
    const std::vector<float> x = {1, bad, 1};
    h.Add(x.data(), nullptr, 1, linalg);
    EXPECT_FALSE(h.finite()) << bad;
  }
}

}  // namespace
}  // namespace nibble
