#include "backend/cpu/algebra/openblas.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
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

// The first object of a process decides, so each asks in a process of its own.
TEST(OpenBlasDeathTest, TakesTheKernelsOfAnInstructionSet) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
#if defined(__x86_64__)
  const auto check = [](const char* instruction_set, const char* core) {
    const OpenBlas blas(instruction_set);
    std::fprintf(stderr, "%s of OpenBLAS %s\n", blas.core().c_str(), blas.version().c_str());
    ::_exit(blas.core() == core ? 0 : 1);
  };
  EXPECT_EXIT(check("portable", "Prescott"), ::testing::ExitedWithCode(0), "OpenBLAS [0-9]+[.]");
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
  for (const char* set : {"avx2", "avxvnni"}) {
    EXPECT_EXIT(check(set, "Haswell"), ::testing::ExitedWithCode(0), "");
  }
  if (!__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) return;
  for (const char* set : {"avx512", "amx"}) {
    EXPECT_EXIT(check(set, "SkylakeX"), ::testing::ExitedWithCode(0), "");
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

TEST(OpenBlas, TriangularProductsReadTheUpperTriangleOnly) {
  const OpenBlas blas;
  const std::vector<float> u = {2, 1, -7, 4};
  std::vector<float> b = {1, 2, 2, 1};
  blas.MultiplyByUpper(false, 2, 2, u.data(), 2, b.data(), 2);
  EXPECT_EQ(b, (std::vector<float>{2, 9, 4, 6}));
  b = {1, 2, 2, 1};
  blas.MultiplyByUpper(true, 2, 2, u.data(), 2, b.data(), 2);
  EXPECT_EQ(b, (std::vector<float>{4, 8, 5, 4}));
  b = {1, 2, 2, 1};
  blas.NegatedUpperTimes(2, 2, u.data(), 2, b.data(), 2);
  EXPECT_EQ(b, (std::vector<float>{-4, -5, -8, -4}));
  std::vector<float> c = {50, 50, -7, 50};
  blas.SubtractOuter(2, 2, std::vector<float>{1, 2, 3, 4}.data(), 2, c.data(), 2);
  EXPECT_EQ(c, (std::vector<float>{45, 39, -7, 25}));
}

}  // namespace
}  // namespace nibble
