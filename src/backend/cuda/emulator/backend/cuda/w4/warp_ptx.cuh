#pragma once

// Emulates backend/cuda/w4/warp_ptx.cuh on the host and shadows it by include order. Instructions
// of a whole warp wait for all its lanes and are then those of warp.h; asynchronous copies happen
// as late as the rules allow, so that a missing wait shows.

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include "backend/cuda/emulator/warp.h"

namespace nibble::cuda {
namespace emulator {

// Runs `warp_instruction(operands)` once, when every lane of the warp has arrived with its
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

// A thread's copies in flight, in batches (commit groups); the last one is still open.
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

// As large as the largest device's; not cleared between blocks.
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

// An mbarrier in its 64 bits. A bulk copy is performed only once a thread blocks on its barrier.
inline constexpr bool kHasBulkCopies = true;

namespace emulator {

struct Barrier {
  uint8_t count, pending, parity, unused;
  int32_t bytes;

  void EndPhaseIfOver() {
    if (pending > 0 || bytes != 0) return;
    parity ^= 1;
    pending = count;
  }
};
static_assert(sizeof(Barrier) == sizeof(uint64_t));

inline Barrier& BarrierAt(uint64_t* at) { return *reinterpret_cast<Barrier*>(at); }

struct BulkCopy {
  std::byte* to;
  const void* from;
  uint32_t bytes;
  uint64_t* barrier;
};
inline std::vector<BulkCopy>& BulkCopies() {
  static std::vector<BulkCopy> copies;
  return copies;
}

[[noreturn]] inline void FailBulk(const char* what) {
  std::fprintf(stderr, "emulated barrier, block %u, thread %u: %s\n", blockIdx.x, threadIdx.x,
               what);
  std::abort();
}

}  // namespace emulator

inline void InitBarrier(uint64_t* barrier, uint32_t count) {
  const auto small = static_cast<uint8_t>(count);
  emulator::BarrierAt(barrier) = {small, small, 0, 0, 0};
}
inline void FenceBarriers() {}
inline void Trap() { std::abort(); }
inline void Arrive(uint64_t* at) {
  emulator::Barrier& barrier = emulator::BarrierAt(at);
  if (barrier.pending == 0) emulator::FailBulk("more arrivals than the barrier expects");
  --barrier.pending;
  barrier.EndPhaseIfOver();
}
inline void ArriveAndExpect(uint64_t* at, uint32_t bytes) {
  emulator::BarrierAt(at).bytes += static_cast<int32_t>(bytes);
  Arrive(at);
}
inline void WaitForPhase(uint64_t* at, uint32_t parity) {
  for (int tries = 0;; ++tries) {
    // Lane 0 decides for the warp: other lanes may arrive after the state has changed.
    const bool over = emulator::BarrierAt(at).parity != parity;
    if (__shfl_sync(0xffffffffu, static_cast<int>(over), 0) != 0) return;
    if (emulator::LaneIndex() == 0) {
      for (const emulator::BulkCopy& copy : emulator::BulkCopies()) {
        std::memcpy(copy.to, copy.from, copy.bytes);
        emulator::BarrierAt(copy.barrier).bytes -= static_cast<int32_t>(copy.bytes);
        emulator::BarrierAt(copy.barrier).EndPhaseIfOver();
      }
      emulator::BulkCopies().clear();
    }
    if (tries > 100000) emulator::FailBulk("no thread completes the awaited phase");
  }
}
inline void CopyBulk(std::byte* shared, const void* global, uint32_t bytes, uint64_t* barrier,
                     uint64_t) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(global) % 16 != 0 || bytes % 16 != 0) {
    emulator::FailBulk("a bulk copy is not aligned");
  }
  emulator::BulkCopies().push_back({shared, global, bytes, barrier});
}
inline uint64_t EvictLast() { return 0; }

// Blocks run one after the other, so waiting for a later block is a deadlock.
inline void Raise(uint32_t* flag) { *flag = 1; }
inline void WaitUntilRaised(const uint32_t* flag) {
  if (*flag == 0) {
    std::fprintf(stderr, "emulated kernel, block %u: waits for a block behind it\n", blockIdx.x);
    std::abort();
  }
}

}  // namespace nibble::cuda
