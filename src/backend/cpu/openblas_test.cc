#include "backend/cpu/openblas.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

namespace nibble {
namespace {

TEST(OpenBlas, AnExportedCoreTypeIsNeitherObeyedNorLost) {
  setenv("OPENBLAS_CORETYPE", "Prescott", 1);
  const OpenBlas blas;
  EXPECT_STREQ(std::getenv("OPENBLAS_CORETYPE"), "Prescott");
  unsetenv("OPENBLAS_CORETYPE");
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    EXPECT_TRUE(blas.core() == "SkylakeX" || blas.core() == "Haswell") << blas.core();
  }
#endif
}

TEST(OpenBlas, MatricesAreRowMajor) {
  const OpenBlas blas;
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};  // [2, 3]
  const std::vector<float> b = {1, 0, 2, 1};        // [2, 2]
  std::vector<float> c(6, 100.0f);
  blas.Gemm(true, false, 3, 2, 2, 2.0f, a.data(), 3, b.data(), 2, c.data(), 2);
  EXPECT_EQ(c, (std::vector<float>{118, 108, 124, 110, 130, 112}));
  std::vector<float> gram(9, 0.0f);
  blas.GramUpper(3, 2, a.data(), 3, gram.data(), 3);
  EXPECT_EQ(gram, (std::vector<float>{17, 22, 27, 0, 29, 36, 0, 0, 45}));
}

TEST(OpenBlas, SolvesAndFactors) {
  const OpenBlas blas;
  const std::vector<float> r = {2, 1, 0, 4};  // upper
  std::vector<float> x = {2, 9, 4, 6};
  blas.SolveUpperRight(false, 2, 2, 1.0f, r.data(), 2, x.data(), 2);
  EXPECT_EQ(x, (std::vector<float>{1, 2, 2, 1}));
  x = {4, 8, 5, 4};
  blas.SolveUpperRight(true, 2, 2, 1.0f, r.data(), 2, x.data(), 2);
  EXPECT_EQ(x, (std::vector<float>{1, 2, 2, 1}));
  std::vector<float> inverse = r;
  blas.InvertUpper(2, inverse.data(), 2);
  EXPECT_EQ(inverse, (std::vector<float>{0.5f, -0.125f, 0, 0.25f}));
  std::vector<float> h = {4, -1, 2, 10};
  EXPECT_EQ(blas.CholeskyLower(2, h.data(), 2), -1);
  EXPECT_EQ(h, (std::vector<float>{2, -1, 1, 3}));
  h = {1, 0, 0, -1};
  EXPECT_EQ(blas.CholeskyLower(2, h.data(), 2), 1);
}

}  // namespace
}  // namespace nibble
