#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "backend/cuda/w4/gemm_int4.cuh"
#include "backend/cuda/w4/skinny_gemm-inl.h"
#include "backend/cuda/w4/stream_k.h"
#include "backend/cuda/w4/warp_ptx.cuh"

// Shared by the skinny kernels, however they copy to shared memory: the schedule of slices of a
// block, the exchange of partial sums, and the epilogue. Eight warps work on a panel of up to 256
// rows; each owns two tiles of 16 rows.
namespace nibble::cuda {

inline constexpr int kWarps = 8;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kRowTiles = kW4MaxPanelRows / kW4TileRows / kWarps;  // of a warp
inline constexpr int kMaxStages = 8;

__device__ inline int64_t XRow(const W4GemmArgs& args, int32_t row) {
  return args.x_rows == nullptr ? row : args.x_rows[row] / args.x_rows_per;
}

// Epilogue of one list row: stores the sum of one weight row, or, for SwiGLU, combines those of a
// pair of gate and up rows.
__device__ inline void StoreOutput(const W4GemmArgs& args, int32_t list_row, int32_t weight_row,
                                   float value) {
  const int64_t out_row = args.out_rows == nullptr ? list_row : args.out_rows[list_row];
  const auto rows = static_cast<int32_t>(args.layout.rows);
  if (weight_row >= rows) return;
  if (args.output == W4Output::kF32) {
    if (args.out_weights != nullptr) value *= args.out_weights[out_row];
    static_cast<float*>(args.out)[out_row * rows + weight_row] = value;
    return;
  }
  int64_t column = weight_row;
  if (args.head_dim > 0) {
    const W4SourceRow source =
        QkvSource(weight_row, args.num_heads, args.num_kv_heads, args.head_dim);
    column = source.row + (source.part > 0 ? args.num_heads * args.head_dim : 0) +
             (source.part > 1 ? args.num_kv_heads * args.head_dim : 0);
  }
  static_cast<__nv_bfloat16*>(args.out)[out_row * rows + column] = __float2bfloat16(value);
}

__device__ inline void StoreMiddle(const W4GemmArgs& args, int32_t list_row, int32_t gate_row,
                                   float gate, float up) {
  const int64_t out_row = args.out_rows == nullptr ? list_row : args.out_rows[list_row];
  const int64_t width = args.layout.rows / 2;
  const int64_t feature = gate_row / 16 * 8 + gate_row % 8;
  if (feature >= width) return;
  static_cast<__nv_bfloat16*>(args.out)[out_row * width + feature] =
      __float2bfloat16(SwiGlu<Ptx>(gate, up));
}

// A stage of the ring: one group of a panel, then of the tokens.
inline constexpr int kTokensInStage = kW4MaxPanelRows / kW4RecordRows * kW4RecordBytes;
constexpr int StageBytes(int token_tile) { return kTokensInStage + token_tile * kTokenPitch; }

// The slices assigned to this block, in order, as a ring: entry i holds slice i while any warp
// works on it. Copies are at most kMaxStages - 1 groups, and thus slices, ahead of products; one
// further entry is being prepared. One thread does the 64-bit divisions, and no warp keeps a slice
// in registers.
inline constexpr int kRingEntries = 16;
static_assert(kRingEntries >= kMaxStages + 2);

struct Entry {
  WorkSlice slice;  // num_groups == 0: the end
  ExpertTile tile;
};

struct Schedule {
  Partition partition;
  int32_t offsets[kMaxW4Experts + 1];
  Entry entries[kRingEntries];

  __device__ const Entry& entry(uint32_t i) const { return entries[i % kRingEntries]; }
};

__device__ inline void Prepare(const W4GemmArgs& args, int32_t token_tile, uint32_t i,
                               Schedule& schedule) {
  const Partition partition = schedule.partition;
  Entry entry = {};
  if (i == 0) {
    entry.slice = FirstSlice(partition, blockIdx.x);
  } else if (schedule.entry(i - 1).slice.num_groups > 0) {
    entry.slice = NextSlice(partition, blockIdx.x, schedule.entry(i - 1).slice);
  }
  if (entry.slice.num_groups > 0) {
    entry.tile = FindExpertTile(schedule.offsets, args.num_experts, args.layout.num_panels(),
                                token_tile, entry.slice.tile);
  }
  schedule.entries[i % kRingEntries] = entry;
}

// Stages that fit into a block's shared memory beside the schedule and the barriers of a ring.
inline int NumStages(const SkinnyPlan& plan, int token_tile) {
  constexpr int kBeside = static_cast<int>(sizeof(Schedule)) + 2 * 8 * kMaxStages + 128;
  const int stages = (plan.shared_bytes - kBeside) / StageBytes(token_tile);
  return stages < kMaxStages ? stages : kMaxStages;
}

// Launches SkinnyW4Kernel or BulkW4Kernel for `token_tile` tokens.
inline cudaError_t LaunchRing(void (*kernel)(W4GemmArgs, SkinnyPlan, int), int token_tile,
                              int threads, const W4GemmArgs& args, const SkinnyPlan& plan,
                              cudaStream_t stream) {
  const int stages = NumStages(plan, token_tile);
  if (stages < 2) return cudaErrorInvalidValue;
  const int bytes = stages * StageBytes(token_tile);
  const cudaError_t error = AllowDynamicShared(kernel, bytes);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.num_ctas));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args, plan, stages);
}

// Checks the arguments and returns launch(tiles), tiles.value being how many tiles of 8 tokens hold
// the rows of an expert.
template <typename LaunchTiles>
cudaError_t LaunchForTokens(const W4GemmArgs& args, const SkinnyPlan& plan,
                            const LaunchTiles& launch) {
  if (args.num_rows == 0) return cudaSuccess;
  if (args.num_experts > kMaxW4Experts || plan.splits > args.layout.num_groups()) {
    return cudaErrorInvalidValue;
  }
  switch (TokenTile(args.max_rows_per_expert)) {
    case 8:
      return launch(std::integral_constant<int, 1>());
    case 16:
      return launch(std::integral_constant<int, 2>());
    case 24:
      return launch(std::integral_constant<int, 3>());
    case 32:
      return launch(std::integral_constant<int, 4>());
    case 48:
      return launch(std::integral_constant<int, 6>());
    default:
      return launch(std::integral_constant<int, 8>());
  }
}

// Called by all threads of the block; a barrier must follow.
template <int kBlockThreads>
NIBBLE_DEVICE void FetchOffsets(const W4GemmArgs& args, Schedule& schedule) {
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e <= args.num_experts; e += kBlockThreads) {
    schedule.offsets[e] = args.offsets != nullptr ? args.offsets[e] : e * args.num_rows;
  }
}

// Called by one thread of the block, once the offsets are loaded; a barrier must follow.
__device__ inline void Start(const W4GemmArgs& args, const SkinnyPlan& plan, int32_t token_tile,
                             Schedule& schedule) {
  schedule.partition.num_tiles =
      CountExpertTiles(schedule.offsets, args.num_experts, args.layout.num_panels(), token_tile);
  schedule.partition.groups_per_tile = static_cast<int32_t>(args.layout.num_groups());
  schedule.partition.num_ctas = plan.num_ctas;
  schedule.partition.splits = plan.splits;
  Prepare(args, token_tile, 0, schedule);
  Prepare(args, token_tile, 1, schedule);
}

// Position of an iteration over the slices.
struct Cursor {
  uint32_t entry = 0;
  int32_t group = 0;  // within the slice

  __device__ void Advance(const Schedule& schedule) {
    if (++group == schedule.entry(entry).slice.num_groups) {
      ++entry;
      group = 0;
    }
  }
};

// A position in the ring of stages, and the parity of its round.
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void Advance(int stages) {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

template <int kTokenTiles>
using Sums = SkinnySums<Ptx, kRowTiles, kTokenTiles>;

// Partial sums are stored as [slot][element][thread]. Each warp owns its rows, so it passes partial
// sums to the warp of the same index in another block, by a flag of its own, and no block waits as
// a whole.
template <int kTokenTiles>
constexpr int64_t kSlotFloats = int64_t{kRowTiles} * kTokenTiles * 4 * kThreads;

// Calls visit(row tile, token tile, element, place in the slot) for each sum of a thread.
template <int kTokenTiles, typename Visit>
NIBBLE_DEVICE void ForSums(const Visit& visit) {
  NIBBLE_CUDA_UNROLL
  for (int r = 0; r < kRowTiles; ++r) {
    NIBBLE_CUDA_UNROLL
    for (int n = 0; n < kTokenTiles; ++n) {
      NIBBLE_CUDA_UNROLL
      for (int e = 0; e < 4; ++e) visit(r, n, e, ((r * kTokenTiles + n) * 4 + e) * kThreads);
    }
  }
}

template <int kTokenTiles>
__device__ void KeepPartialSums(const SkinnyPlan& plan, const WorkSlice& slice,
                                const Sums<kTokenTiles>& sums) {
  float* slot = plan.workspace + slice.slot() * kSlotFloats<kTokenTiles> + threadIdx.x;
  ForSums<kTokenTiles>(
      [&](int r, int n, int e, int place) { StoreToL2(slot + place, sums.value[r][n][e]); });
  __syncwarp();
  if (threadIdx.x % 32 == 0) Raise(plan.flags + slice.slot() * kWarps + threadIdx.x / 32);
}

template <int kTokenTiles>
__device__ void AddPartialSums(const SkinnyPlan& plan, const WorkSlice& slice,
                               Sums<kTokenTiles>& sums) {
  for (int32_t i = 0; i < slice.index; ++i) {  // in order, so that the bits do not depend on timing
    const int64_t at = slice.first_slot + i;
    uint32_t* flag = plan.flags + at * kWarps + threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) WaitUntilRaised(flag);
    __syncwarp();
    const float* slot = plan.workspace + at * kSlotFloats<kTokenTiles> + threadIdx.x;
    ForSums<kTokenTiles>(
        [&](int r, int n, int e, int place) { sums.value[r][n][e] += LoadFromL2(slot + place); });
    if (threadIdx.x % 32 == 0) *flag = 0;  // the next launch expects zeros
  }
}

template <int kTokenTiles>
__device__ void StoreSums(const W4GemmArgs& args, const ExpertTile& tile, int first_tile,
                          const Sums<kTokenTiles>& sums) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const int32_t panel_row = tile.panel * args.layout.panel_rows;
  NIBBLE_CUDA_UNROLL
  for (int n = 0; n < kTokenTiles; ++n) {
    NIBBLE_CUDA_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int token = SumToken(lane, n, e);
      if (token >= tile.num_rows) continue;
      NIBBLE_CUDA_UNROLL
      for (int r = 0; r < kRowTiles; ++r) {
        const int32_t row = panel_row + SumRow(lane, first_tile + r, e);
        const float upper = sums.value[r][n][e];
        const float lower = sums.value[r][n][e + 2];
        if (args.output == W4Output::kSwiGlu) {
          StoreMiddle(args, tile.first_row + token, row, upper, lower);
        } else {
          StoreOutput(args, tile.first_row + token, row, upper);
          StoreOutput(args, tile.first_row + token, row + 8, lower);
        }
      }
    }
  }
}

// Publishes the partial sums of a finished slice or stores its results, and clears them for the
// next.
template <int kTokenTiles>
__device__ void FinishSlice(const W4GemmArgs& args, const SkinnyPlan& plan, const Entry& at,
                            int first_tile, Sums<kTokenTiles>& sums) {
  if (at.slice.owns_tile()) {
    AddPartialSums<kTokenTiles>(plan, at.slice, sums);
    StoreSums<kTokenTiles>(args, at.tile, first_tile, sums);
  } else {
    KeepPartialSums<kTokenTiles>(plan, at.slice, sums);
  }
  ClearSums(sums);
}

}  // namespace nibble::cuda
