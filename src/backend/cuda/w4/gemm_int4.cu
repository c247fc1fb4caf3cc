// The ladder: 0 a thread an output; 1 tensor cores, fed by cp.async; 2, for sm_90, the same fed by
// bulk copies (skinny_bulk.cu).
#include "backend/cuda/launch.h"
#include "backend/cuda/w4/gemm_int4.cuh"
#include "backend/cuda/w4/skinny_tile.cuh"

namespace nibble::cuda {
namespace {

// --- Rung 0 ---

__device__ float NaiveDot(const W4Layout& layout, const std::byte* weights, int64_t row,
                          const __nv_bfloat16* x) {
  float sum = 0;
  for (int64_t group = 0; group < layout.num_groups(); ++group) {
    float group_sum = 0;
    for (int64_t col = group * kW4GroupCols; col < (group + 1) * kW4GroupCols; ++col) {
      const W4CodePosition at = CodePosition(layout, row, col);
      const uint32_t word = *reinterpret_cast<const uint32_t*>(weights + at.byte);
      const int code = static_cast<int>(word >> at.shift & 0xf) - 8;
      group_sum += static_cast<float>(code) * __bfloat162float(x[col]);
    }
    sum += Ptx::LoadBf16(weights + ScalePosition(layout, row, group), 0) * group_sum;
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads) NaiveW4Kernel(W4GemmArgs args) {
  const auto list_row = static_cast<int32_t>(blockIdx.y);
  int32_t expert = 0;
  if (args.offsets != nullptr) {
    while (expert < args.num_experts && list_row >= args.offsets[expert + 1]) ++expert;
    if (expert == args.num_experts) return;
  }
  const bool swiglu = args.output == W4Output::kSwiGlu;
  const auto i = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= args.layout.rows / (swiglu ? 2 : 1)) return;
  const std::byte* weights = args.weights + expert * args.layout.size_bytes();
  const __nv_bfloat16* x = args.x + XRow(args, list_row) * args.layout.cols;
  if (swiglu) {
    const int32_t gate_row = i / 8 * 16 + i % 8;
    StoreMiddle(args, list_row, gate_row, NaiveDot(args.layout, weights, gate_row, x),
                NaiveDot(args.layout, weights, gate_row + 8, x));
  } else {
    StoreOutput(args, list_row, i, NaiveDot(args.layout, weights, i, x));
  }
}

// --- Rung 1 ---

template <int kTokenTiles>
__device__ void CopyStage(const W4GemmArgs& args, const Entry& at, int32_t group_of_slice,
                          std::byte* stage, uint64_t policy) {
  const int64_t group = at.slice.first_group + group_of_slice;
  const auto bytes = static_cast<int32_t>(args.layout.panel_group_bytes());
  const std::byte* from = args.weights + at.tile.expert * args.layout.size_bytes() +
                          (at.tile.panel * args.layout.num_groups() + group) * bytes;
  for (int32_t i = static_cast<int32_t>(threadIdx.x) * 16; i < bytes; i += kThreads * 16) {
    CopyWeightsAsync(stage + i, from + i, policy);
  }
  std::byte* tokens = stage + kTokensInStage;
  constexpr int kPerRow = kW4GroupCols / 8;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kTokenTiles * 8 * kPerRow;
       i += kThreads) {
    const int32_t row = i / kPerRow;
    const bool real = row < at.tile.num_rows;
    const __nv_bfloat16* x = args.x;
    if (real) {
      x += XRow(args, at.tile.first_row + row) * args.layout.cols + group * kW4GroupCols +
           i % kPerRow * 8;
    }
    CopyTokensAsync(tokens + row * kTokenPitch + i % kPerRow * 16, x, real);
  }
}

template <int kTokenTiles>
__global__ void __launch_bounds__(kThreads, 1)
    SkinnyW4Kernel(W4GemmArgs args, SkinnyPlan plan, int stages) {
  constexpr int32_t kTokens = kTokenTiles * 8;
  // Raw, because shared memory has no initializers.
  __shared__ uint64_t storage[(sizeof(Schedule) + 7) / 8];
  Schedule& schedule = *reinterpret_cast<Schedule*>(storage);
  FetchOffsets<kThreads>(args, schedule);
  __syncthreads();
  if (threadIdx.x == 0) Start(args, plan, kTokens, schedule);
  __syncthreads();

  // Starts the copy of the next group into a stage. Entering a slice also computes the schedule
  // entry of the following one: a barrier separates that write from its first use, and another
  // precedes the reuse of an entry.
  Cursor copy;
  Cursor multiply;
  std::byte* const ring = DynamicShared();
  const uint64_t policy = EvictFirst();
  const auto copy_next = [&](int to_stage) {
    const Entry& at = schedule.entry(copy.entry);
    if (at.slice.num_groups > 0) {
      CopyStage<kTokenTiles>(args, at, copy.group, ring + to_stage * StageBytes(kTokens), policy);
      copy.Advance(schedule);
      if (copy.group == 0 && threadIdx.x == 0) Prepare(args, kTokens, copy.entry + 1, schedule);
    }
    CommitCopies();
  };
  for (int s = 0; s < stages - 1; ++s) {
    copy_next(s);
    __syncthreads();
  }

  // A warp's tiles of 16 rows; panels of 128 and 64 rows leave warps without.
  const int first_tile = static_cast<int>(threadIdx.x / 32) * kRowTiles;
  const bool has_rows = first_tile < args.layout.panel_rows / kW4TileRows;
  Sums<kTokenTiles> sums;
  ClearSums(sums);
  int stage = 0;
  while (schedule.entry(multiply.entry).slice.num_groups > 0) {
    WaitForCopies(stages - 2);
    __syncthreads();  // this stage is complete, and all warps have read the previous one
    copy_next(stage == 0 ? stages - 1 : stage - 1);
    if (has_rows) {
      const std::byte* at = ring + stage * StageBytes(kTokens);
      MultiplyGroup(at, first_tile, at + kTokensInStage, sums);
    }
    const Entry& at = schedule.entry(multiply.entry);
    if (has_rows && multiply.group == at.slice.num_groups - 1) {
      FinishSlice<kTokenTiles>(args, plan, at, first_tile, sums);
    }
    multiply.Advance(schedule);
    stage = stage + 1 == stages ? 0 : stage + 1;
  }
}

// --- Dequantization ---

// A thread a word: two neighbouring inputs of four (row, half) places.
__global__ void __launch_bounds__(kThreads) DequantizeW4Kernel(DequantizeW4Args args) {
  const W4Layout& layout = args.layout;
  const int64_t strip = blockIdx.y;  // 64 rows
  const int64_t group = blockIdx.x;
  const std::byte* record = args.weights + layout.RecordOffset(strip * kW4RecordRows, group);
  for (int i = static_cast<int>(threadIdx.x); i < kW4ScaleOffset / 4; i += kThreads) {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(record + 4 * i);
    const int block = i % 4;
    const int lane = i / 4 % 32;
    const int tile_half = i / 128;
    for (int j = 0; j < 4; ++j) {
      const int row = tile_half / 2 * 16 + lane / 4 + 8 * (j % 2);
      if (strip * kW4RecordRows + row >= layout.rows) continue;
      const int64_t col =
          group * kW4GroupCols + tile_half % 2 * 64 + block * 16 + lane % 4 * 2 + 8 * (j / 2);
      const float scale = Ptx::LoadBf16(record + kW4ScaleOffset, static_cast<uint32_t>(2 * row));
      __nv_bfloat16* out = args.out + (strip * kW4RecordRows + row) * layout.cols + col;
      for (int half = 0; half < 2; ++half) {
        const int code = static_cast<int>(word >> (4 * j + 16 * half) & 0xf) - 8;
        out[half] = __float2bfloat16(static_cast<float>(code) * scale);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    StoreW4SumsKernel(W4GemmArgs args, const float* sums, int32_t first_row, int32_t num_rows) {
  const int64_t rows = args.layout.rows;
  const bool swiglu = args.output == W4Output::kSwiGlu;
  const int64_t width = swiglu ? rows / 2 : rows;
  const int64_t count = num_rows * width;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    const auto column = static_cast<int32_t>(i % width);
    const auto list_row = static_cast<int32_t>(i / width);
    const float* row = sums + list_row * rows;
    if (swiglu) {
      const int32_t gate_row = column / 8 * 16 + column % 8;
      StoreMiddle(args, first_row + list_row, gate_row, row[gate_row], row[gate_row + 8]);
    } else {
      StoreOutput(args, first_row + list_row, column, row[column]);
    }
  }
}

}  // namespace

cudaError_t LaunchNaiveW4Gemm(const W4GemmArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return cudaSuccess;
  const int64_t columns = args.layout.rows / (args.output == W4Output::kSwiGlu ? 2 : 1);
  const dim3 grid(static_cast<unsigned>((columns + kThreads - 1) / kThreads),
                  static_cast<unsigned>(args.num_rows));
  return Launch(NaiveW4Kernel, grid, dim3(kThreads), stream, args);
}

int64_t WorkspaceFlags(const W4GemmArgs& args, const SkinnyPlan& plan) {
  const int32_t tile = TokenTile(args.max_rows_per_expert);
  // The offsets are on the device, so this is the maximum number of tiles over all distributions.
  const int64_t blocks = (args.num_rows + tile - 1) / tile + args.num_experts - 1;
  Partition partition;
  partition.num_tiles = blocks * args.layout.num_panels();
  partition.groups_per_tile = static_cast<int32_t>(args.layout.num_groups());
  partition.num_ctas = plan.num_ctas;
  partition.splits = plan.splits;
  return partition.num_slots() * kWarps;
}

int64_t WorkspaceFloats(const W4GemmArgs& args, const SkinnyPlan& plan) {
  return WorkspaceFlags(args, plan) / kWarps * kW4MaxPanelRows *
         TokenTile(args.max_rows_per_expert);
}

cudaError_t LaunchSkinnyW4Gemm(const W4GemmArgs& args, const SkinnyPlan& plan,
                               cudaStream_t stream) {
  return LaunchForTokens(args, plan, [&](auto tiles) {
    return LaunchRing(SkinnyW4Kernel<tiles.value>, 8 * tiles.value, kThreads, args, plan, stream);
  });
}

cudaError_t LaunchStoreW4Sums(const W4GemmArgs& args, const float* sums, int32_t first_row,
                              int32_t num_rows, cudaStream_t stream) {
  if (num_rows == 0) return cudaSuccess;
  constexpr int64_t kMostBlocks = 4096;
  const int64_t width = args.layout.rows / (args.output == W4Output::kSwiGlu ? 2 : 1);
  const int64_t blocks = (num_rows * width + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks));
  return Launch(StoreW4SumsKernel, grid, dim3(kThreads), stream, args, sums, first_row, num_rows);
}

cudaError_t LaunchDequantizeW4(const DequantizeW4Args& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.layout.num_groups()),
                  static_cast<unsigned>(args.layout.padded_rows() / kW4RecordRows));
  return Launch(DequantizeW4Kernel, grid, dim3(kThreads), stream, args);
}

}  // namespace nibble::cuda
