// The kernels themselves, on the emulator, against their float64 twins.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "backend/cuda/cases/problem.h"

namespace nibble::cuda {
namespace {

class KernelsTest : public ::testing::TestWithParam<bench::Case> {};

std::vector<bench::Case> SmallCases() {
  std::vector<bench::Case> small;
  for (const bench::Case& one : bench::AllCases()) {
    if (one.small) small.push_back(one);
  }
  return small;
}

// Each run of a check orders its threads differently, and all must give the same bits.
TEST_P(KernelsTest, AgreesWithItsTwinInAnyOrderOfThreads) {
  const auto problem = GetParam().make(1);
  const std::vector<std::string> findings = problem->Check(2, nullptr);
  EXPECT_TRUE(findings.empty()) << findings.front();
}

INSTANTIATE_TEST_SUITE_P(Small, KernelsTest, ::testing::ValuesIn(SmallCases()),
                         [](const auto& parameter) {
                           std::string name = std::to_string(parameter.index) + "_" +
                                              parameter.param.op + "_" + parameter.param.shape;
                           for (char& c : name) {
                             if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace nibble::cuda
