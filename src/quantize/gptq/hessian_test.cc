#include "quantize/gptq/hessian.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "backend/host/host_data.h"
#include "backend/reference/reference_algebra.h"

namespace nibble {
namespace {

TEST(Hessian, SumsInputsAndCountsThem) {
  ReferenceAlgebra algebra;
  Hessian h(2);
  const std::vector<float> x = {1, 2, 3, 4};
  const Activation rows = BorrowHost(x.data(), 2, 2);
  h.Add(rows, nullptr, 0, 2, algebra);
  h.Add(rows, nullptr, 0, 1, algebra);
  EXPECT_EQ(h.tokens(), 3);
  EXPECT_EQ(h.data()[0], 1 + 9 + 1);
  EXPECT_EQ(h.data()[1], 2 + 12 + 2);
  EXPECT_EQ(h.data()[2], 0);  // below the diagonal
  EXPECT_EQ(h.data()[3], 4 + 16 + 4);
  const Hessian moved = std::move(h);
  EXPECT_EQ(moved.tokens(), 3);
}

TEST(Hessian, KnowsWhenASumIsLost) {
  ReferenceAlgebra algebra;
  for (const float bad : {NAN, INFINITY, 1e30f}) {
    Hessian h(3);
    EXPECT_TRUE(h.finite());
    const std::vector<float> x = {1, bad, 1};
    const Activation rows = BorrowHost(x.data(), 1, 3);
    h.Add(rows, nullptr, 0, 1, algebra);
    EXPECT_FALSE(h.finite()) << bad;
  }
}

}  // namespace
}  // namespace nibble
