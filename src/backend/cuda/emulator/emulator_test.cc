#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <vector>

#include "backend/cuda/launch.h"
#include "backend/cuda/reduce.cuh"

namespace nibble::cuda {
namespace {

__global__ void SumKernel(const int* values, int* sums) {
  sums[blockIdx.x * blockDim.x + threadIdx.x] =
      BlockSum<96>(values[blockIdx.x * blockDim.x + threadIdx.x]);
}

TEST(Emulator, RunsBlocksWithBarriersAndShuffles) {
  std::vector<int> values(2 * 96), sums(values.size(), -1);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int>(i * i % 101);
  int expected[2] = {0, 0};
  for (size_t i = 0; i < values.size(); ++i) expected[i / 96] += values[i];
  ASSERT_EQ(Launch(SumKernel, dim3(2), dim3(96), nullptr, values.data(), sums.data()), cudaSuccess);
  for (size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(sums[i], expected[i / 96]) << i;
}

__global__ void RaceKernel(int* last) { *last = static_cast<int>(threadIdx.x); }

TEST(Emulator, ShowsARaceAsAResultThatDependsOnTheOrder) {
  bool differ = false;
  int first = -1;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    emulator::SetOrderSeed(seed);
    int last = -1;
    Launch(RaceKernel, dim3(1), dim3(64), nullptr, &last);
    if (seed == 0) first = last;
    differ = differ || last != first;
  }
  EXPECT_TRUE(differ);
}

__global__ void HalfBarrierKernel() {
  if (threadIdx.x < 16) __syncthreads();
}
__global__ void HalfWarpKernel() {
  if (threadIdx.x < 16) __shfl_xor_sync(0xffffffffu, 1, 1);
}

TEST(EmulatorDeathTest, RefusesBarriersThatOnlySomeThreadsReach) {
  EXPECT_DEATH(Launch(HalfBarrierKernel, dim3(1), dim3(32), nullptr), "part of a block");
  EXPECT_DEATH(Launch(HalfWarpKernel, dim3(1), dim3(32), nullptr), "part of a warp");
}

}  // namespace
}  // namespace nibble::cuda
