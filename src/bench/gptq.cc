#include "bench/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "backend/host/host_data.h"
#include "quantize/gptq/gptq.h"
#include "quantize/gptq/hessian.h"

namespace nibble {
namespace {

// Pseudo-random values in [-1, 1].
std::vector<float> Noise(int64_t count) {
  std::vector<float> values(count);
  uint64_t state = 1;
  for (float& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<float>(state >> 40) * 0x1p-23f - 1.0f;
  }
  return values;
}

class GptqBench {
 public:
  explicit GptqBench(const GptqBenchOptions& options)
      : options_(options), backend_(MakeBackend("cpu", options.backend)) {
    report_.roofline = cpu::MeasureRoofline(options.backend, 3, int64_t{64} << 20);
    report_.backend = backend_->name();
  }

  KernelReport Run() {
    for (const int64_t size : {256, 384, 6144}) Gram(size, 2048);
    for (const int64_t size : {384, 2048, 6144}) Factor(size);
    Sweep(256, 384);
    Sweep(2048, 6144);
    return std::move(report_);
  }

 private:
  template <typename Body>
  void Add(const std::string& name, double flop, const Body& body) {
    report_.figures.push_back({name, "GFLOP/s", flop, cpu::MedianSeconds(options_.repeats, body),
                               report_.roofline.float_flops_per_second});
  }

  void Gram(int64_t size, int64_t rows) {
    const std::vector<float> x = Noise(rows * size);
    Hessian hessian(size);
    const double n = static_cast<double>(size);
    Add(fmt::format("gram {}, {} rows", size, rows), static_cast<double>(rows) * n * n, [&] {
      hessian.Add(BorrowHost(x.data(), rows, size), nullptr, 0, rows, backend_->algebra());
    });
  }

  // Small ones in parallel, as experts are factored.
  void Factor(int64_t size) {
    GptqAlgebra& algebra = backend_->algebra();
    const int64_t copies = size <= 512 ? 8 * algebra.threads().num_threads() : 1;
    std::vector<Hessian> h;
    for (int64_t i = 0; i < copies; ++i) h.emplace_back(size);
    std::vector<double> seconds;
    for (int i = 0; i <= options_.repeats; ++i) {
      for (Hessian& matrix : h) {  // factoring overwrites its input
        std::fill_n(matrix.data(), size * size, 1.0f / static_cast<float>(size));
        for (int64_t k = 0; k < size; ++k) matrix.data()[k * size + k] = 2;
      }
      const auto start = std::chrono::steady_clock::now();
      if (copies == 1) {
        algebra.InverseCholesky(h[0].data(), size);
      } else {
        algebra.threads().ParallelFor(
            copies, [&](int64_t index, int) { algebra.InverseCholesky(h[index].data(), size); });
      }
      if (i == 0) continue;  // warm-up
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::ranges::sort(seconds);
    const double n = static_cast<double>(size);
    report_.figures.push_back({fmt::format("inverse Cholesky {}", size), "GFLOP/s",
                               static_cast<double>(copies) * 2.0 / 3.0 * n * n * n,
                               seconds[seconds.size() / 2],
                               report_.roofline.float_flops_per_second});
  }

  // From Gram matrix to packed codes, as for one Linear.
  void Sweep(int64_t rows, int64_t size) {
    const Tensor weight = FromFloat(Noise(rows * size), DType::kBF16, Shape{rows, size});
    const DenseLinear linear{"bench", weight.view()};
    const std::vector<float> x = Noise(64 * size);
    Recipe recipe;
    const double n = static_cast<double>(size);
    Add(fmt::format("whole linear {} x {}", rows, size),
        2.0 / 3.0 * n * n * n + static_cast<double>(rows) * n * n, [&] {
          Hessian fresh(size);
          fresh.Add(BorrowHost(x.data(), 64, size), nullptr, 0, 64, backend_->algebra());
          QuantizeWithHessian(recipe, DType::kBF16, {&linear, 1}, fresh.data(), 64,
                              backend_->algebra());
        });
  }

  GptqBenchOptions options_;
  std::unique_ptr<Backend> backend_;
  KernelReport report_;
};

}  // namespace

KernelReport BenchGptq(const GptqBenchOptions& options) { return GptqBench(options).Run(); }

}  // namespace nibble
