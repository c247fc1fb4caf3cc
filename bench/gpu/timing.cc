#include "bench/gpu/timing.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

namespace nibble::cuda::bench {
namespace {

void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "nibble_gpu_bench: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// All launches as one graph; null if they cannot be captured.
cudaGraphExec_t Capture(cudaStream_t stream, const std::function<cudaError_t()>& launches) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  bool captured = cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess &&
                  launches() == cudaSuccess;
  captured = cudaStreamEndCapture(stream, &graph) == cudaSuccess && captured;
  if (captured && cudaGraphInstantiate(&executable, graph, 0) != cudaSuccess) executable = nullptr;
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();  // clears the error of a failed capture
  return executable;
}

}  // namespace

double MedianSeconds(cudaStream_t stream, int repeats, const std::function<cudaError_t()>& launch) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  Require(cudaEventCreate(&begin), "cudaEventCreate");
  Require(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> milliseconds;
  for (int i = -2; i < repeats; ++i) {
    Require(cudaEventRecord(begin, stream), "cudaEventRecord");
    Require(launch(), "launch");
    Require(cudaEventRecord(end, stream), "cudaEventRecord");
    Require(cudaEventSynchronize(end), "a timed kernel");
    float one = 0;
    Require(cudaEventElapsedTime(&one, begin, end), "cudaEventElapsedTime");
    if (i >= 0) milliseconds.push_back(one);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(milliseconds.begin(), milliseconds.end());
  return static_cast<double>(milliseconds[milliseconds.size() / 2]) * 1e-3;
}

Timing TimeCase(const Case& one, std::unique_ptr<Problem> first, int64_t l2_bytes, uint64_t seed,
                cudaStream_t stream) {
  constexpr int kMaxCopies = 64;
  constexpr int kLaunches = 64;  // in a graph at least, which makes the cost of a replay negligible
  Timing timing;
  std::vector<std::unique_ptr<Problem>> copies;
  int64_t footprint = first->footprint();
  copies.push_back(std::move(first));
  while (footprint < 4 * l2_bytes && copies.size() < kMaxCopies) {
    copies.push_back(one.make(seed + copies.size()));
    footprint += copies.back()->footprint();
  }
  timing.copies = static_cast<int>(copies.size());
  timing.bytes = copies[0]->bytes();
  timing.operations = copies[0]->operations();

  const double single = MedianSeconds(stream, 1, [&] { return copies[0]->Launch(stream); });
  const int rounds = single > 1e-3 ? 1 : (kLaunches + timing.copies - 1) / timing.copies;
  const auto launches = [&] {
    for (int round = 0; round < rounds; ++round) {
      for (const auto& copy : copies) {
        const cudaError_t error = copy->Launch(stream);
        if (error != cudaSuccess) return error;
      }
    }
    return cudaSuccess;
  };
  cudaGraphExec_t graph = Capture(stream, launches);
  timing.graph = graph != nullptr;
  const double all = MedianSeconds(
      stream, 15, [&] { return graph != nullptr ? cudaGraphLaunch(graph, stream) : launches(); });
  if (graph != nullptr) cudaGraphExecDestroy(graph);
  timing.seconds = all / (rounds * timing.copies);
  return timing;
}

}  // namespace nibble::cuda::bench
