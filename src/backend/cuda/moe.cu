// Rung 1: the router has a block per token and a warp per expert; the sort runs in one block.
#include "backend/cuda/launch.h"
#include "backend/cuda/moe.cuh"
#include "backend/cuda/pages.h"
#include "backend/cuda/reduce.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) RouterKernel(RouterArgs args) {
  const int64_t row = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const __nv_bfloat16* h = args.h + row * args.hidden;
  __shared__ float logits[kMaxExperts];
  for (int e = static_cast<int>(threadIdx.x / 32); e < args.num_experts; e += kThreads / 32) {
    const __nv_bfloat16* router = args.router + static_cast<int64_t>(e) * args.hidden;
    float sum = 0;
    for (int i = lane; i < args.hidden; i += 32) {
      sum += __bfloat162float(h[i]) * __bfloat162float(router[i]);
    }
    sum = WarpSum(sum);
    if (args.round_logits) sum = __bfloat162float(__float2bfloat16(sum));
    if (lane == 0) {
      logits[e] = sum;
      args.logits[row * args.num_experts + e] = sum;
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;

  int32_t* experts = args.experts + row * args.top_k;
  float* weights = args.weights + row * args.top_k;
  if (args.sequences != nullptr && args.sequences[row] == kPaddingRow) {
    for (int j = 0; j < args.top_k; ++j) {
      experts[j] = -1;
      weights[j] = 0;
    }
    return;
  }
  unsigned taken = 0;  // a bit an expert
  float largest = 0;
  float total = 0;
  for (int j = 0; j < args.top_k; ++j) {
    int best = -1;
    for (int e = 0; e < args.num_experts; ++e) {
      if ((taken >> e & 1u) == 0 && (best < 0 || logits[e] > logits[best])) best = e;
    }
    taken |= 1u << best;
    if (j == 0) largest = logits[best];
    experts[j] = best;
    weights[j] = expf(logits[best] - largest);
    total += weights[j];
  }
  for (int j = 0; j < args.top_k; ++j) weights[j] /= total;
}

// A counting sort: each thread has a contiguous range of pairs. They are counted by expert and
// thread; prefix sums over lower experts, and over lower threads within an expert, are the
// destinations.
__global__ void __launch_bounds__(kThreads) MoeSortKernel(MoeSortArgs args) {
  __shared__ int32_t places[kMaxExperts][kThreads];
  __shared__ int32_t offsets[kMaxExperts + 1];
  __shared__ int32_t first_tiles[kMaxExperts + 1];
  const int thread = static_cast<int>(threadIdx.x);
  const int run = (args.pairs + kThreads - 1) / kThreads;
  const int first = min(thread * run, args.pairs);
  const int last = min(first + run, args.pairs);

  for (int e = 0; e < args.num_experts; ++e) places[e][thread] = 0;
  for (int p = first; p < last; ++p) {
    if (args.experts[p] >= 0) ++places[args.experts[p]][thread];
  }
  __syncthreads();

  if (thread < args.num_experts) {  // prefix sum within the expert; its total goes to offsets
    int32_t sum = 0;
    for (int t = 0; t < kThreads; ++t) {
      const int32_t count = places[thread][t];
      places[thread][t] = sum;
      sum += count;
    }
    offsets[thread + 1] = sum;
  }
  __syncthreads();

  if (thread == 0) {
    offsets[0] = 0;
    first_tiles[0] = 0;
    for (int e = 0; e < args.num_experts; ++e) {
      first_tiles[e + 1] = first_tiles[e] + (offsets[e + 1] + args.tile_rows - 1) / args.tile_rows;
      offsets[e + 1] += offsets[e];
    }
  }
  __syncthreads();

  for (int e = thread; e <= args.num_experts; e += kThreads) args.offsets[e] = offsets[e];
  for (int p = first; p < last; ++p) {
    const int32_t e = args.experts[p];
    int32_t row = -1;
    if (e >= 0) {
      row = offsets[e] + places[e][thread]++;
      args.pair_of_row[row] = p;
    }
    args.row_of_pair[p] = row;
  }
  for (int r = offsets[args.num_experts] + thread; r < args.pairs; r += kThreads) {
    args.pair_of_row[r] = -1;
  }
  const int max_tiles = MaxTiles(args.pairs, args.num_experts, args.tile_rows);
  for (int tile = thread; tile < max_tiles; tile += kThreads) {
    int e = 0;
    while (e < args.num_experts && tile >= first_tiles[e + 1]) ++e;
    const bool used = e < args.num_experts;
    args.tile_expert[tile] = used ? e : -1;
    args.tile_first_row[tile] = used ? offsets[e] + (tile - first_tiles[e]) * args.tile_rows : -1;
  }
}

__global__ void __launch_bounds__(kThreads) GatherRowsKernel(GatherRowsArgs args) {
  const int64_t row = blockIdx.x;
  const int32_t pair = args.pair_of_row[row];
  const __nv_bfloat16* from =
      pair < 0 ? nullptr : args.x + static_cast<int64_t>(pair / args.top_k) * args.cols;
  __nv_bfloat16* to = args.out + row * args.cols;
  for (int i = static_cast<int>(threadIdx.x); i < args.cols; i += kThreads) {
    to[i] = from == nullptr ? __float2bfloat16(0.0f) : from[i];
  }
}

}  // namespace

cudaError_t LaunchRouter(const RouterArgs& args, cudaStream_t stream) {
  if (args.num_experts > kMaxExperts || args.top_k > kMaxTopK || args.top_k > args.num_experts) {
    return cudaErrorInvalidValue;
  }
  return Launch(RouterKernel, dim3(static_cast<unsigned>(args.rows)), dim3(kThreads), stream, args);
}

cudaError_t LaunchMoeSort(const MoeSortArgs& args, cudaStream_t stream) {
  if (args.num_experts > kMaxExperts || args.tile_rows < 1) return cudaErrorInvalidValue;
  return Launch(MoeSortKernel, dim3(1), dim3(kThreads), stream, args);
}

cudaError_t LaunchGatherRows(const GatherRowsArgs& args, cudaStream_t stream) {
  return Launch(GatherRowsKernel, dim3(static_cast<unsigned>(args.rows)), dim3(kThreads), stream,
                args);
}

}  // namespace nibble::cuda
