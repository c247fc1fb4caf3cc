#pragma once

// What backend/cuda/warp_ptx.cuh does, on the emulator: instructions of a whole warp wait for all
// its lanes and are then those of warp.h; asynchronous copies happen as late as they may.

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include "backend/cuda/warp.h"

namespace nibble::cuda {
namespace emulator {

// Runs `warp_instruction(operands)` once, when each lane of the warp has come with its own
// operands.
template <typename Operands, typename Function>
void WarpTogether(Operands& own, const Function& warp_instruction) {
  static std::array<std::array<Operands*, kWarpLanes>, 32> all;
  auto& warp = all[threadIdx.x / kWarpLanes];
  warp[LaneIndex()] = &own;
  __syncwarp();
  if (LaneIndex() == 0) warp_instruction(warp);
  __syncwarp();
}

struct Copy {
  std::byte* to;
  const void* from;  // null: zeros
};

// The copies of a thread that are under way, in batches; the last one is still open.
inline std::deque<std::vector<Copy>>& CopiesOfThread() {
  static std::array<std::deque<std::vector<Copy>>, 1024> copies;
  auto& own = copies[threadIdx.x];
  if (own.empty()) own.emplace_back();
  return own;
}

}  // namespace emulator

struct Ptx {
  using U32 = uint32_t;
  using F32 = float;

  static uint32_t Lane() { return threadIdx.x % 32; }
  static uint32_t AndOr(uint32_t a, uint32_t mask, uint32_t bits) {
    return Emulated::AndOr(a, mask, bits)[0];
  }
  static uint32_t SubtractBf16(uint32_t a, uint32_t b) { return Emulated::SubtractBf16(a, b)[0]; }
  static float MultiplyAdd(float a, float b, float c) { return std::fma(a, b, c); }
  static float Exp(float a) { return std::exp(a); }

  static void LoadVector(const std::byte* base, uint32_t offset, uint32_t (&words)[4]) {
    if (reinterpret_cast<uintptr_t>(base + offset) % 16 != 0) Fail("a vector is not aligned");
    std::memcpy(words, base + offset, sizeof words);
  }
  static float LoadBf16(const std::byte* base, uint32_t offset) {
    return Emulated::LoadBf16(base, offset)[0];
  }

  static void LoadMatrices(const std::byte* base, uint32_t offset, uint32_t (&matrices)[4]) {
    struct Operands {
      const std::byte* address;
      uint32_t* result;
    } own = {base + offset, matrices};
    if (reinterpret_cast<uintptr_t>(own.address) % 16 != 0) Fail("a matrix row is not aligned");
    emulator::WarpTogether(own, [](const std::array<Operands*, kWarpLanes>& warp) {
      Lanes<uint32_t> offsets;
      Lanes<uint32_t> result[4];
      const std::byte* lowest = warp[0]->address;
      for (const Operands* lane : warp) lowest = std::min(lowest, lane->address);
      for (int i = 0; i < kWarpLanes; ++i) {
        offsets[i] = static_cast<uint32_t>(warp[static_cast<size_t>(i)]->address - lowest);
      }
      Emulated::LoadMatrices(lowest, offsets, result);
      for (int i = 0; i < kWarpLanes; ++i) {
        for (int m = 0; m < 4; ++m) warp[static_cast<size_t>(i)]->result[m] = result[m][i];
      }
    });
  }

  static void MatrixMultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    struct Operands {
      float* d;
      const uint32_t* a;
      uint32_t b0, b1;
    } own = {d, a, b0, b1};
    emulator::WarpTogether(own, [](const std::array<Operands*, kWarpLanes>& warp) {
      Lanes<float> sums[4];
      Lanes<uint32_t> weights[4], low, high;
      for (int i = 0; i < kWarpLanes; ++i) {
        const Operands& lane = *warp[static_cast<size_t>(i)];
        for (int e = 0; e < 4; ++e) {
          sums[e][i] = lane.d[e];
          weights[e][i] = lane.a[e];
        }
        low[i] = lane.b0;
        high[i] = lane.b1;
      }
      Emulated::MatrixMultiplyAdd(sums, weights, low, high);
      for (int i = 0; i < kWarpLanes; ++i) {
        for (int e = 0; e < 4; ++e) warp[static_cast<size_t>(i)]->d[e] = sums[e][i];
      }
    });
  }

 private:
  [[noreturn]] static void Fail(const char* what) {
    std::fprintf(stderr, "emulated instruction, block %u, thread %u: %s\n", blockIdx.x, threadIdx.x,
                 what);
    std::abort();
  }
};

// As much as the largest device has; not cleared between blocks.
inline std::byte* DynamicShared() {
  alignas(128) static std::byte shared[227 * 1024];
  return shared;
}
template <typename Kernel>
cudaError_t AllowDynamicShared(Kernel*, int bytes) {
  return bytes <= 227 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

inline void StoreToL2(float* to, float value) { *to = value; }
inline float LoadFromL2(const float* from) { return *from; }

inline void CopyTokensAsync(std::byte* shared, const void* global, bool real) {
  emulator::CopiesOfThread().back().push_back({shared, real ? global : nullptr});
}
inline uint64_t EvictFirst() { return 0; }
inline void CopyWeightsAsync(std::byte* shared, const void* global, uint64_t) {
  CopyTokensAsync(shared, global, true);
}
inline void CommitCopies() { emulator::CopiesOfThread().emplace_back(); }
inline void WaitForCopies(int pending) {
  auto& batches = emulator::CopiesOfThread();
  while (static_cast<int>(batches.size()) - 1 > pending) {
    for (const emulator::Copy& copy : batches.front()) {
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
      } else {
        std::memcpy(copy.to, copy.from, 16);
      }
    }
    batches.pop_front();
  }
}

// Blocks run one after the other: who waits for a block that comes later waits for ever.
inline void Raise(uint32_t* flag) { *flag = 1; }
inline void WaitUntilRaised(const uint32_t* flag) {
  if (*flag == 0) {
    std::fprintf(stderr, "emulated kernel, block %u: waits for a block behind it\n", blockIdx.x);
    std::abort();
  }
}

}  // namespace nibble::cuda
