#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

// The instructions of sm_80 and later that have no C++ form; emulator/warp.h describes what they
// do. Builds for the host include emulator/backend/cuda/w4/warp_ptx.cuh instead, which shadows this
// file by include order.
namespace nibble::cuda {

struct Ptx {
  using U32 = uint32_t;
  using F32 = float;

  __device__ static uint32_t Lane() { return threadIdx.x % 32; }

  // One instruction; from C++ operators the compiler makes two.
  __device__ static uint32_t AndOr(uint32_t a, uint32_t mask, uint32_t bits) {
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(mask), "r"(bits));
    return result;
  }

  // a - b as a * 1 + (-b): sm_80 has a packed multiply-add only. Exact here, as is the subtraction.
  __device__ static uint32_t SubtractBf16(uint32_t a, uint32_t b) {
    uint32_t result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(result)
        : "r"(a), "r"(0x3f803f80u), "r"(b ^ 0x80008000u));
    return result;
  }

  __device__ static float MultiplyAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  __device__ static float Exp(float a) { return expf(a); }

  __device__ static void LoadVector(const std::byte* base, uint32_t offset, uint32_t (&words)[4]) {
    const uint4 vector = *reinterpret_cast<const uint4*>(base + offset);
    words[0] = vector.x;
    words[1] = vector.y;
    words[2] = vector.z;
    words[3] = vector.w;
  }

  __device__ static float LoadBf16(const std::byte* base, uint32_t offset) {
    const uint32_t bits = *reinterpret_cast<const uint16_t*>(base + offset);
    return __uint_as_float(bits << 16);
  }

  __device__ static void LoadMatrices(const std::byte* base, uint32_t offset,
                                      uint32_t (&matrices)[4]) {
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(base)) + offset;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
  }

  __device__ static void MatrixMultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                           uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

// The block's dynamic shared memory, aligned to 128 bytes.
__device__ inline std::byte* DynamicShared() {
  extern __shared__ __align__(128) std::byte dynamic_shared[];
  return dynamic_shared;
}

// Must be called before a launch with more dynamic shared memory than 48 KiB.
template <typename Kernel>
cudaError_t AllowDynamicShared(Kernel* kernel, int bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

// Bypasses L1, which is not coherent between multiprocessors.
__device__ inline void StoreToL2(float* to, float value) { __stcg(to, value); }
__device__ inline float LoadFromL2(const float* from) { return __ldcg(from); }

// Asynchronous copies (cp.async) of 16 bytes to shared memory; zeros where not `real`. Weights
// bypass L1, since each is read once a step; tokens, which all blocks read, are cached.
__device__ inline void CopyTokensAsync(std::byte* shared, const void* global, bool real) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
               "r"(real ? 16 : 0)
               : "memory");
}
__device__ inline uint64_t EvictFirst() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ inline void CopyWeightsAsync(std::byte* shared, const void* global, uint64_t policy) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to),
               "l"(global), "l"(policy)
               : "memory");
}

// Copies since the last call are one batch. WaitForCopies returns when at most `pending` (0..6) of
// the thread's batches are in flight; copies of other threads are visible after a barrier.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void WaitForCopiesOf() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ __forceinline__ void WaitForCopies(int pending) {
  switch (pending) {
    case 0:
      return WaitForCopiesOf<0>();
    case 1:
      return WaitForCopiesOf<1>();
    case 2:
      return WaitForCopiesOf<2>();
    case 3:
      return WaitForCopiesOf<3>();
    case 4:
      return WaitForCopiesOf<4>();
    case 5:
      return WaitForCopiesOf<5>();
    default:
      return WaitForCopiesOf<6>();
  }
}

// --- sm_90: bulk copies that report to a barrier in shared memory ---

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr bool kHasBulkCopies = false;
#else
inline constexpr bool kHasBulkCopies = true;
#endif

__device__ inline void Trap() { __trap(); }

// The functions below may be called only where kHasBulkCopies.

// A phase of an mbarrier completes after `count` arrivals and once all bytes announced for it have
// arrived.
__device__ inline void InitBarrier(uint64_t* barrier, uint32_t count) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
// After the last InitBarrier and before the block's barrier: makes the mbarriers visible to bulk
// copies.
__device__ inline void FenceBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void Arrive(uint64_t* barrier) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
__device__ inline void ArriveAndExpect(uint64_t* barrier, uint32_t bytes) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
               : "memory");
}
// Called by a whole warp: waits until the phase of this parity is complete. Phases count from 0;
// for a fresh barrier the preceding phase, of parity 1, counts as complete.
__device__ inline void WaitForPhase(uint64_t* barrier, uint32_t parity) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  uint32_t over;
  do {
    asm volatile(
        "{\n.reg .pred over;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
        "selp.u32 %0, 1, 0, over;\n}"
        : "=r"(over)
        : "r"(at), "r"(parity)
        : "memory");
  } while (over == 0);
}
// Bulk copy of `bytes`; size and addresses are multiples of 16. The barrier counts the bytes that
// arrive.
__device__ inline void CopyBulk(std::byte* shared, const void* global, uint32_t bytes,
                                uint64_t* barrier, uint64_t policy) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(global), "r"(bytes), "r"(at), "l"(policy)
      : "memory");
}
__device__ inline uint64_t EvictLast() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// A flag between blocks, with release and acquire semantics: what a block wrote before a barrier
// and Raise() by one of its threads is visible to another block after WaitUntilRaised() by one of
// its threads and a barrier.
__device__ inline void Raise(uint32_t* flag) {
  __threadfence();
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(1) : "memory");
}
__device__ inline void WaitUntilRaised(const uint32_t* flag) {
  uint32_t value;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  } while (value == 0);
}

}  // namespace nibble::cuda
