// nibble_gpu_bench: checks every GPU kernel against float64, then times it beside the ceilings of
// the same run. Exit status 0, 1 (a kernel is wrong), 2 (usage) or 77 (no GPU here).
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/cases/problem.h"
#include "backend/cuda/device.h"
#include "bench/gpu/ceilings.cuh"
#include "bench/gpu/timing.h"

namespace nibble::cuda::bench {
namespace {

constexpr double kLargestTwin = 3e9;  // operations: about as many seconds on the host

struct Options {
  std::string filter;  // part of "op shape"
  std::string json;
  bool check = true;
  bool time = true;
  uint64_t seed = 0;
  double seconds = 480;  // no case starts after this time
};

struct Row {
  Case one;
  Timing timing;
};

struct Results {
  Ceilings ceilings;
  int checked = 0;
  int wrong = 0;
  std::vector<Row> rows;
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

[[noreturn]] void Usage(const char* wrong) {
  std::fprintf(
      stderr,
      "nibble_gpu_bench: %s\nusage: nibble_gpu_bench [--check-only | --time-only] [--filter TEXT] "
      "[--seed N] [--seconds N] [--json FILE]\n",
      wrong);
  std::exit(2);
}

Options Parse(int argc, char** argv) {
  Options options;
  options.seed = std::random_device()();
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--check-only") {
      options.time = false;
    } else if (flag == "--time-only") {
      options.check = false;
    } else if (i + 1 == argc) {
      Usage(("unknown flag or no value: " + flag).c_str());
    } else if (flag == "--filter") {
      options.filter = argv[++i];
    } else if (flag == "--json") {
      options.json = argv[++i];
    } else if (flag == "--seed") {
      options.seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--seconds") {
      options.seconds = std::strtod(argv[++i], nullptr);
    } else {
      Usage(("unknown flag " + flag).c_str());
    }
  }
  return options;
}

void PrintRow(const Row& row, const Ceilings& ceilings) {
  const Timing& t = row.timing;
  const double bytes_rate = t.bytes / t.seconds;
  const double flops = t.operations / t.seconds;
  std::printf("%-14s %-22s %10.2f us %8.1f GB/s %5.1f %% %9.3f TFLOP/s %5.1f %%%s\n",
              row.one.op.c_str(), row.one.shape.c_str(), t.seconds * 1e6, bytes_rate * 1e-9,
              100 * bytes_rate / ceilings.read_bytes_per_second, flops * 1e-12,
              100 * flops / ceilings.bf16_flops, t.graph ? "" : "  (no graph)");
  std::fflush(stdout);
}

// One case: checked unless its twin is too slow, then timed if it is a real shape.
void Run(const Case& one, const Options& options, const Device& device, cudaStream_t stream,
         Results& results) {
  auto problem = one.make(options.seed);
  if (options.check && problem->operations() <= kLargestTwin) {
    const std::vector<std::string> findings = problem->Check(3, stream);
    ++results.checked;
    results.wrong += findings.empty() ? 0 : 1;
    for (const std::string& finding : findings) {
      std::printf("WRONG  %s %s: %s\n", one.op.c_str(), one.shape.c_str(), finding.c_str());
    }
  }
  if (!options.time || !one.timed) return;
  results.rows.push_back(
      {one, TimeCase(one, std::move(problem), device.l2_bytes, options.seed, stream)});
  PrintRow(results.rows.back(), results.ceilings);
}

void WriteJson(const Options& options, const Device& device, const Results& results) {
  std::FILE* file = std::fopen(options.json.c_str(), "w");
  if (file == nullptr) {
    std::fprintf(stderr, "nibble_gpu_bench: cannot write %s: %s\n", options.json.c_str(),
                 std::strerror(errno));
    std::exit(1);
  }
  const Ceilings& ceilings = results.ceilings;
  std::fprintf(
      file,
      "{\"device\": \"%s\", \"seed\": %llu, \"checked\": %d, \"wrong\": %d,\n \"ceilings\": "
      "{\"copy_bytes_per_second\": %.6g, \"read_bytes_per_second\": %.6g, "
      "\"l2_bytes_per_second\": %.6g, \"bf16_flops\": %.6g},\n \"kernels\": [",
      device.name.c_str(), static_cast<unsigned long long>(options.seed), results.checked,
      results.wrong, ceilings.copy_bytes_per_second, ceilings.read_bytes_per_second,
      ceilings.l2_bytes_per_second, ceilings.bf16_flops);
  const char* separator = "";
  for (const auto& [one, t] : results.rows) {
    std::fprintf(file,
                 "%s\n  {\"op\": \"%s\", \"shape\": \"%s\", \"seconds\": %.6g, \"bytes\": %.6g, "
                 "\"operations\": %.6g, \"copies\": %d, \"graph\": %s}",
                 separator, one.op.c_str(), one.shape.c_str(), t.seconds, t.bytes, t.operations,
                 t.copies, t.graph ? "true" : "false");
    separator = ",";
  }
  std::fprintf(file, "]}\n");
  std::fclose(file);
}

int Main(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  const Options options = Parse(argc, argv);
  const DeviceList list = Devices();
  if (list.devices.empty()) {
    std::fprintf(stderr, "nibble_gpu_bench: skipped: %s\n", list.why_none.c_str());
    return 77;
  }
  const Device& device = list.devices[0];
  std::printf("%s, sm_%d%d, %d multiprocessors, %.0f GB, L2 %.0f MB\n", device.name.c_str(),
              device.major, device.minor, device.multiprocessors,
              static_cast<double>(device.memory_bytes) * 1e-9,
              static_cast<double>(device.l2_bytes) * 1e-6);

  std::vector<Case> cases;
  for (const Case& one : AllCases()) {
    if ((one.op + " " + one.shape).find(options.filter) == std::string::npos) continue;
    if (device.major >= one.least_major) {
      cases.push_back(one);
    } else {
      std::printf("left out, needs sm_%d0: %s %s\n", one.least_major, one.op.c_str(),
                  one.shape.c_str());
    }
  }
  std::stable_partition(cases.begin(), cases.end(), [](const Case& one) { return one.small; });
  if (cases.empty()) Usage(("no case matches " + options.filter).c_str());
  cudaStream_t stream = nullptr;
  if (cudaStreamCreate(&stream) != cudaSuccess) {
    std::fprintf(stderr, "nibble_gpu_bench: the device makes no stream\n");
    return 1;
  }

  Results results;
  if (options.time) {
    const Ceilings& c = results.ceilings = MeasureCeilings(device.l2_bytes, stream);
    std::printf("ceilings: copy %.0f GB/s, read %.0f GB/s, L2 %.0f GB/s, bf16 %.0f TFLOP/s\n",
                c.copy_bytes_per_second * 1e-9, c.read_bytes_per_second * 1e-9,
                c.l2_bytes_per_second * 1e-9, c.bf16_flops * 1e-12);
  }
  for (const Case& one : cases) {
    if (SecondsSince(start) < options.seconds) {
      Run(one, options, device, stream, results);
    } else {
      std::printf("left out, %.0f seconds are over: %s %s\n", options.seconds, one.op.c_str(),
                  one.shape.c_str());
    }
  }
  std::printf("%d cases checked against float64, %d wrong (seed %llu), %.0f s\n", results.checked,
              results.wrong, static_cast<unsigned long long>(options.seed), SecondsSince(start));
  cudaStreamDestroy(stream);
  if (!options.json.empty()) WriteJson(options, device, results);
  return results.wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace nibble::cuda::bench

int main(int argc, char** argv) { return nibble::cuda::bench::Main(argc, argv); }
