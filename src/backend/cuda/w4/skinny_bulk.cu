// Rung 2 of the skinny kernel, for sm_90. Rung 1 stops all warps at a barrier for each group and
// has each thread compute the addresses of what it copies. Here one producer warp only copies, a
// group of a panel being one contiguous block of bytes, and the other eight (the consumers)
// multiply, each at its own pace: a stage is full when its bytes have arrived, and empty when every
// consumer warp has released it.
#include "backend/cuda/w4/skinny_tile.cuh"

namespace nibble::cuda {
namespace {

constexpr int kAllThreads = kThreads + 32;
// Unused where there are no bulk copies.
[[maybe_unused]] constexpr uint32_t kTokenBytes = 2 * kW4GroupCols;

// Called by the whole producer warp. An entry of the schedule is written before the last group of
// the previous slice is announced, so a warp that has waited for that group may read it.
template <int kTokenTiles>
__device__ void Produce(const W4GemmArgs& args, int stages, std::byte* ring, uint64_t* full,
                        uint64_t* empty, Schedule& schedule) {
  constexpr int32_t kTokens = kTokenTiles * 8;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const uint64_t once = EvictFirst();
  const uint64_t often = EvictLast();
  const auto weight_bytes = static_cast<uint32_t>(args.layout.panel_group_bytes());
  RingPlace place;
  Cursor copy;
  while (schedule.entry(copy.entry).slice.num_groups > 0) {
    const Entry& at = schedule.entry(copy.entry);
    const int64_t group = at.slice.first_group + copy.group;
    std::byte* const stage = ring + place.stage * StageBytes(kTokens);
    uint64_t* const arrived = full + place.stage;
    WaitForPhase(empty + place.stage, place.parity ^ 1);
    if (lane == 0) {
      ArriveAndExpect(arrived,
                      weight_bytes + static_cast<uint32_t>(at.tile.num_rows) * kTokenBytes);
      CopyBulk(stage,
               args.weights + at.tile.expert * args.layout.size_bytes() +
                   (at.tile.panel * args.layout.num_groups() + group) * weight_bytes,
               weight_bytes, arrived, once);
    }
    __syncwarp();
    // Rows after the last keep stale data: a token's inputs never reach another token's sums.
    for (int32_t row = lane; row < at.tile.num_rows; row += 32) {
      CopyBulk(
          stage + kTokensInStage + row * kTokenPitch,
          args.x + XRow(args, at.tile.first_row + row) * args.layout.cols + group * kW4GroupCols,
          kTokenBytes, arrived, often);
    }
    copy.Advance(schedule);
    if (copy.group == 0) {
      if (lane == 0) Prepare(args, kTokens, copy.entry + 1, schedule);
      __syncwarp();
    }
    place.Advance(stages);
  }
}

template <int kTokenTiles>
__device__ void Consume(const W4GemmArgs& args, const SkinnyPlan& plan, int stages,
                        const std::byte* ring, uint64_t* full, uint64_t* empty,
                        const Schedule& schedule) {
  constexpr int32_t kTokens = kTokenTiles * 8;
  const int first_tile = static_cast<int>(threadIdx.x / 32) * kRowTiles;
  Sums<kTokenTiles> sums;
  ClearSums(sums);
  RingPlace place;
  Cursor multiply;
  while (schedule.entry(multiply.entry).slice.num_groups > 0) {
    const Entry& at = schedule.entry(multiply.entry);
    const std::byte* const stage = ring + place.stage * StageBytes(kTokens);
    WaitForPhase(full + place.stage, place.parity);
    MultiplyGroup(stage, first_tile, stage + kTokensInStage, sums);
    __syncwarp();
    if (threadIdx.x % 32 == 0) Arrive(empty + place.stage);
    if (multiply.group == at.slice.num_groups - 1) {
      FinishSlice<kTokenTiles>(args, plan, at, first_tile, sums);
    }
    multiply.Advance(schedule);
    place.Advance(stages);
  }
}

template <int kTokenTiles>
__global__ void __launch_bounds__(kAllThreads, 1)
    BulkW4Kernel(W4GemmArgs args, SkinnyPlan plan, int stages) {
  if constexpr (kHasBulkCopies) {
    __shared__ uint64_t storage[(sizeof(Schedule) + 7) / 8];
    __shared__ uint64_t full[kMaxStages];
    __shared__ uint64_t empty[kMaxStages];
    Schedule& schedule = *reinterpret_cast<Schedule*>(storage);
    FetchOffsets<kAllThreads>(args, schedule);
    const int busy_warps = args.layout.panel_rows / kW4TileRows / kRowTiles;
    if (threadIdx.x == 0) {
      for (int s = 0; s < stages; ++s) {
        InitBarrier(full + s, 1);
        InitBarrier(empty + s, static_cast<uint32_t>(busy_warps));
      }
      FenceBarriers();
    }
    __syncthreads();
    if (threadIdx.x == 0) Start(args, plan, kTokenTiles * 8, schedule);
    __syncthreads();
    const int warp = static_cast<int>(threadIdx.x / 32);
    if (warp == kWarps) {
      Produce<kTokenTiles>(args, stages, DynamicShared(), full, empty, schedule);
    } else if (warp < busy_warps) {
      Consume<kTokenTiles>(args, plan, stages, DynamicShared(), full, empty, schedule);
    }
  } else {
    Trap();
  }
}

}  // namespace

cudaError_t LaunchBulkW4Gemm(const W4GemmArgs& args, const SkinnyPlan& plan, cudaStream_t stream) {
  return LaunchForTokens(args, plan, [&](auto tiles) {
    if constexpr (tiles.value == 8) {
      // With a ninth warp, 224 registers per thread are too few for the sums: they would spill.
      return LaunchSkinnyW4Gemm(args, plan, stream);
    } else {
      return LaunchRing(BulkW4Kernel<tiles.value>, 8 * tiles.value, kAllThreads, args, plan,
                        stream);
    }
  });
}

}  // namespace nibble::cuda
