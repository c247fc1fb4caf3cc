#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/make_backend.h"
#include "bench/roofline.h"

namespace nibble {

// One measured kernel. A rate is `amount` per call over the median time of a call.
struct KernelFigure {
  std::string name;  // "int4 g128, 1 row"
  // "GB/s" of weights or keys; "GFLOP/s" or "GOP/s" of useful arithmetic, a multiply-add being two.
  std::string unit;
  double amount = 0;   // bytes or operations
  double seconds = 0;  // median of a call
  double roof = 0;     // amount per second that the machine allows

  double rate() const { return amount / seconds; }
  double share_of_roof() const { return rate() / roof; }
};

struct KernelReport {
  std::string backend;  // "cpu (AVX-512 VNNI, 2 threads)"
  cpu::Roofline roofline;
  std::vector<KernelFigure> figures;
};

struct KernelBenchOptions {
  BackendOptions backend;
  int repeats = 9;
  std::string filter = {};                    // only kernels whose name has this part
  int64_t weight_bytes = int64_t{256} << 20;  // read by a one-row product; beyond the caches
  int64_t context = 8192;  // keys of decode attention; prompts of a sixteenth and half of it
};

// Times the ops of the cpu backend through its public face on shapes of Mixtral-8x22B, and the
// roofs in the same run.
KernelReport BenchKernels(const KernelBenchOptions& options);

}  // namespace nibble
