// Rung 1: a block a row. Where the sampler on the CPU sorts, this finds the cut-off probability by
// binary search over its bits: non-negative floats are ordered as their bits are.
#include "backend/cuda/launch.h"
#include "backend/cuda/logits.cuh"
#include "backend/cuda/reduce.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;

// Orders pairs of a logit and an index: the larger logit, then the lower index.
__device__ uint64_t RankOf(float logit, int32_t index) {
  const float plain = logit + 0.0f;  // no negative zero
  uint32_t bits = 0;
  memcpy(&bits, &plain, sizeof(bits));
  bits = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

__device__ double FromBits(uint64_t bits) {
  double value = 0;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// Philox4x32-10 of key `seed` and counter `position`, as base/random.h has it; uniform in (0, 1).
__device__ double UniformDraw(uint64_t seed, uint64_t position) {
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(position);
  uint32_t c1 = static_cast<uint32_t>(position >> 32);
  uint32_t c2 = 0;
  uint32_t c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = 0xd2511f53ull * c0;
    const uint64_t second = 0xcd9e8d57ull * c2;
    c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(second);
    c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(first);
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  const uint64_t bits = (static_cast<uint64_t>(c0) << 32 | c1) >> 11;
  return (static_cast<double>(bits) + 0.5) * 0x1p-53;
}

// A row's probabilities, relative to the largest, and how the block walks them.
struct Row {
  double* p;
  int vocab;

  // The sum of value(p) over the row; the same for every thread.
  template <typename Value>
  __device__ double Sum(Value value) const {
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < vocab; i += kThreads) sum += value(p[i]);
    return BlockSum<kThreads>(sum);
  }

  // The largest t in [0, 1] for which holds(t), a monotone predicate that is true at 0.
  template <typename Holds>
  __device__ static double LargestThat(Holds holds) {
    uint64_t low = 0;
    uint64_t high = 0x3ff0000000000001ull;  // just above 1
    while (high - low > 1) {
      const uint64_t middle = low + (high - low) / 2;
      if (holds(FromBits(middle))) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return FromBits(low);
  }

  // Each thread has a contiguous range of tokens.
  __device__ int first() const { return min(static_cast<int>(threadIdx.x) * run(), vocab); }
  __device__ int last() const { return min(first() + run(), vocab); }
  __device__ int run() const { return (vocab + kThreads - 1) / kThreads; }
};

// Zeroes what lies below the k-th largest.
__device__ void KeepTopK(const Row& row, int64_t top_k) {
  const double k = static_cast<double>(top_k);
  const double least = Row::LargestThat(
      [&](double t) { return row.Sum([t](double p) { return p >= t ? 1.0 : 0.0; }) >= k; });
  for (int i = row.first(); i < row.last(); ++i) {
    if (row.p[i] < least) row.p[i] = 0;
  }
  __syncthreads();
}

// Keeps the most likely tokens (the lower id first among equals) until their sum reaches the share.
__device__ void KeepTopP(const Row& row, double top_p) {
  const double share = top_p * row.Sum([](double p) { return p; });
  const auto mass_from = [&](double t) {
    return row.Sum([t](double p) { return p >= t ? p : 0.0; });
  };
  // The smallest probability kept: the largest threshold whose tail mass reaches the share.
  const double least = Row::LargestThat([&](double t) { return mass_from(t) >= share; });
  const double above = row.Sum([least](double p) { return p > least ? p : 0.0; });

  // How many tokens of probability `least` come before each thread's range.
  __shared__ int32_t counts[kThreads];
  int32_t count = 0;
  for (int i = row.first(); i < row.last(); ++i) count += row.p[i] == least ? 1 : 0;
  counts[threadIdx.x] = count;
  __syncthreads();
  int32_t before = 0;
  for (int thread = 0; thread < static_cast<int>(threadIdx.x); ++thread) before += counts[thread];
  for (int i = row.first(); i < row.last(); ++i) {
    if (row.p[i] < least) row.p[i] = 0;
    if (row.p[i] == least && above + before++ * least >= share) row.p[i] = 0;
  }
  __syncthreads();
}

// The first token at which the cumulative sum exceeds `draw` times the total, or the last one with
// a probability above zero.
__device__ int32_t Draw(const Row& row, double draw) {
  __shared__ double sums[kThreads];
  __shared__ int32_t token;
  double sum = 0;
  for (int i = row.first(); i < row.last(); ++i) sum += row.p[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    // Not kThreads: unrolled, the loop spills registers.
    const int threads = static_cast<int>(blockDim.x);
    double total = 0;
    for (int thread = 0; thread < threads; ++thread) total += sums[thread];
    const double target = draw * total;
    double passed = 0;
    int from = 0;  // first token of the range in which the target lies
    double passed_before = 0;
    for (int thread = 0; thread < threads && passed <= target; ++thread) {
      if (sums[thread] <= 0) continue;
      from = thread * row.run();
      passed_before = passed;
      passed += sums[thread];
    }
    passed = passed_before;
    const int until = min(from + row.run(), row.vocab);
    for (int i = from; i < until && passed <= target; ++i) {
      if (row.p[i] <= 0) continue;
      passed += row.p[i];
      token = i;
    }
  }
  __syncthreads();
  return token;
}

__global__ void __launch_bounds__(kThreads) SampleKernel(SampleArgs args) {
  const int64_t index = blockIdx.x;
  const float* logits = args.logits + index * args.vocab;
  const SamplingRow params = args.params[index];
  const Row row{args.scratch + index * args.vocab, args.vocab};
  const int thread = static_cast<int>(threadIdx.x);

  uint64_t best_rank = 0;
  for (int i = thread; i < args.vocab; i += kThreads) {
    best_rank = Larger()(best_rank, RankOf(logits[i], i));
  }
  best_rank = BlockReduce<kThreads>(best_rank, Larger());
  int32_t token = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(best_rank));
  const double largest = static_cast<double>(logits[token]);

  for (int i = thread; i < args.vocab; i += kThreads) {
    row.p[i] = exp(static_cast<double>(logits[i]) - largest);
  }
  const double log_sum = log(row.Sum([](double p) { return p; }));

  if (params.temperature >= 1e-5 && largest > -INFINITY && largest < INFINITY) {
    for (int i = thread; i < args.vocab; i += kThreads) {
      const double p = exp((static_cast<double>(logits[i]) - largest) / params.temperature);
      row.p[i] = p < params.min_p ? 0.0 : p;
    }
    __syncthreads();
    if (params.top_k > 0 && params.top_k < args.vocab) KeepTopK(row, params.top_k);
    if (params.top_p < 1) KeepTopP(row, params.top_p);
    token = Draw(row, UniformDraw(params.seed, params.position));
  }
  if (thread == 0) {
    args.tokens[index] = token;
    args.log_probabilities[index] = static_cast<double>(logits[token]) - largest - log_sum;
  }
}

}  // namespace

cudaError_t LaunchSample(const SampleArgs& args, cudaStream_t stream) {
  return Launch(SampleKernel, dim3(static_cast<unsigned>(args.rows)), dim3(kThreads), stream, args);
}

}  // namespace nibble::cuda
