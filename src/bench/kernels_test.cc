#include "bench/kernels.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(BenchKernels, GivesEveryKernelARateAndARoof) {
  const KernelReport report = BenchKernels({.backend = {.threads = 2, .instruction_set = {}},
                                            .repeats = 1,
                                            .weight_bytes = 1 << 20,
                                            .context = 256});
  EXPECT_NE(report.backend.find("2 threads"), std::string::npos);
  EXPECT_GE(report.figures.size(), 20u);
  for (const KernelFigure& figure : report.figures) {
    EXPECT_GT(figure.seconds, 0.0) << figure.name;
    EXPECT_GT(figure.rate(), 0.0) << figure.name;
    EXPECT_GT(figure.share_of_roof(), 0.0) << figure.name;
  }
}

}  // namespace
}  // namespace nibble
