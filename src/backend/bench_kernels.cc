#include "backend/bench_kernels.h"

#include <numeric>

#include "backend/backend.h"

namespace nibble {
namespace {

constexpr int64_t kCols = 6144;

// Any bits are codes; what they are does not change the time.
void FillRandom(std::span<int32_t> words) {
  uint64_t state = 1;
  for (int32_t& word : words) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    word = static_cast<int32_t>(state >> 32);
  }
}

std::unique_ptr<Weight> PackedWeight(Backend& backend, int bits, int64_t rows) {
  Tensor codes(DType::kI32, Shape{rows, kCols * bits / 32});
  FillRandom(codes.As<int32_t>());
  const Tensor scales =
      FromFloat(std::vector<float>(static_cast<size_t>(rows * kCols / 128), 0.01f), DType::kBF16,
                Shape{rows, kCols / 128});
  PackedView view;
  view.bits = bits;
  view.rows = rows;
  view.cols = kCols;
  view.group_size = 128;
  view.packed = codes.view();
  view.scales = scales.view();
  return backend.Prepare(view, Role::kProjection);
}

std::unique_ptr<Weight> DenseWeight(Backend& backend, DType dtype, int64_t rows) {
  const Tensor values(dtype, Shape{rows, kCols});  // zeros: as slow as any others
  return backend.Prepare(values.view(), Role::kProjection);
}

Activation Filled(Backend& backend, int64_t rows, int64_t cols) {
  Activation x = backend.MakeActivation(rows, cols);
  x.rows = rows;
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(i * 2654435761u % 2001) / 1000.0f - 1.0f;
  }
  backend.Upload(values, x);
  return x;
}

class Bench {
 public:
  explicit Bench(const KernelBenchOptions& options)
      : options_(options), backend_(MakeBackend("cpu", options.backend)) {
    report_.roofline = cpu::MeasureRoofline(options.backend, options.repeats, options.weight_bytes);
    report_.backend = backend_->name();
  }

  KernelReport Run() {
    Linear("int4", 4);
    Linear("int8", 8);
    Linear("bf16", 0);
    Prefill(512, 128, "prefill attention, 512 tokens of 128");
    Decode(4096);
    return std::move(report_);
  }

 private:
  // One row reads the whole weight from memory; many rows compute.
  void Linear(const std::string& name, int bits) {
    const double bytes_per_row = kCols * (bits == 0 ? 2.0 : bits / 8.0 + 2.0 / 128.0);
    const int64_t rows =
        static_cast<int64_t>(static_cast<double>(options_.weight_bytes) / bytes_per_row) / 64 * 64;
    const auto weight = Make(bits, rows);
    for (const int64_t tokens : {1, 2, 4, 8}) {
      Multiply(name + ", " + std::to_string(tokens) + (tokens == 1 ? " row" : " rows"), *weight,
               tokens, "GB/s", bytes_per_row * static_cast<double>(rows),
               report_.roofline.read_bytes_per_second);
    }
    const auto smaller = Make(bits, 4096);
    const double roof = bits == 0 ? report_.roofline.float_flops_per_second
                                  : report_.roofline.packed_ops_per_second(bits);
    for (const int64_t tokens : {32, 128, 512}) {
      Multiply(name + ", " + std::to_string(tokens) + " rows", *smaller, tokens,
               bits == 0 ? "GFLOP/s" : "GOP/s", 2.0 * static_cast<double>(4096 * kCols * tokens),
               roof);
    }
  }

  std::unique_ptr<Weight> Make(int bits, int64_t rows) {
    return bits == 0 ? DenseWeight(*backend_, DType::kBF16, rows)
                     : PackedWeight(*backend_, bits, rows);
  }

  void Multiply(const std::string& name, const Weight& weight, int64_t tokens,
                const std::string& unit, double amount, double roof) {
    const Activation a = Filled(*backend_, tokens, kCols);
    Activation x = Filled(*backend_, tokens, weight.rows());
    Add(name, unit, amount, roof, [&] { backend_->ProjectResidual(a, weight, x); });
  }

  template <typename Body>
  void Add(const std::string& name, const std::string& unit, double amount, double roof,
           const Body& body) {
    report_.figures.push_back(
        {name, unit, amount, cpu::MedianSeconds(options_.repeats, body), roof});
  }

  Batch SequenceBatch(int64_t context, int64_t tokens) {
    Batch batch;
    batch.tokens.resize(static_cast<size_t>(tokens));
    batch.positions.resize(batch.tokens.size());
    std::iota(batch.positions.begin(), batch.positions.end(),
              static_cast<int32_t>(context - tokens));
    batch.starts = {0, static_cast<int32_t>(tokens)};
    batch.context_lengths = {static_cast<int32_t>(context)};
    batch.max_blocks = static_cast<int32_t>((context + 15) / 16);
    batch.block_table.resize(static_cast<size_t>(batch.max_blocks));
    std::iota(batch.block_table.begin(), batch.block_table.end(), 0);
    return batch;
  }

  // 48 query heads over 8 KV heads.
  void Attend(const std::string& name, int64_t context, int64_t tokens, int64_t head_dim,
              const std::string& unit, double amount, double roof) {
    KvPages kv{.num_blocks = (context + 15) / 16, .num_kv_heads = 8, .head_dim = head_dim};
    const Buffer pages = backend_->Allocate(kv.num_blocks * kv.elements_per_block() * 4);
    kv.data = pages.data();
    const Batch batch = SequenceBatch(context, tokens);
    const Activation q = Filled(*backend_, tokens, 48 * head_dim);
    Activation out = backend_->MakeActivation(tokens, q.cols);
    backend_->BeginStep(batch);
    Add(name, unit, amount, roof, [&] { backend_->Attention(q, kv, 0, out); });
    backend_->EndStep();
  }

  void Prefill(int64_t tokens, int64_t head_dim, const std::string& name) {
    const double pairs = static_cast<double>(tokens) * static_cast<double>(tokens + 1) / 2;
    Attend(name, tokens, tokens, head_dim, "GFLOP/s",
           pairs * 48 * 4 * static_cast<double>(head_dim), report_.roofline.float_flops_per_second);
  }

  void Decode(int64_t context) {
    Attend("decode attention, " + std::to_string(context) + " keys", context, 1, 128, "GB/s",
           static_cast<double>(context * 8 * 128 * 2 * 4), report_.roofline.read_bytes_per_second);
  }

  KernelBenchOptions options_;
  std::unique_ptr<Backend> backend_;
  KernelReport report_;
};

}  // namespace

KernelReport BenchKernels(const KernelBenchOptions& options) { return Bench(options).Run(); }

}  // namespace nibble
