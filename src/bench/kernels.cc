#include "bench/kernels.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "backend/backend.h"
#include "backend/host/host_kv_pages.h"

namespace nibble {
namespace {

constexpr int64_t kCols = 6144;

// Any bits are valid codes; their values do not change the time.
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
  const Tensor scales = FromFloat(std::vector<float>(rows * kCols / 128, 0.01f), DType::kBF16,
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
  std::vector<float> values(rows * cols);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(i * 2654435761u % 2001) / 1000.0f - 1.0f;
  }
  backend.Upload(values, x);
  return x;
}

class KernelBench {
 public:
  explicit KernelBench(const KernelBenchOptions& options)
      : options_(options), backend_(MakeBackend("cpu", options.backend)) {
    report_.roofline = cpu::MeasureRoofline(options.backend, options.repeats, options.weight_bytes);
    report_.backend = backend_->name();
  }

  KernelReport Run() {
    Linear("int4", 4);
    Linear("int8", 8);
    Linear("bf16", 0);
    Attention();
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
    const double roof =
        bits == 0 ? report_.roofline.float_flops_per_second
                  : report_.roofline.packed_ops_per_second(options_.backend.activation_bits);
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

  bool Wanted(const std::string& name) const {
    return name.find(options_.filter) != std::string::npos;
  }

  void Multiply(const std::string& name, const Weight& weight, int64_t tokens,
                const std::string& unit, double amount, double roof) {
    if (!Wanted(name)) return;
    const Activation a = Filled(*backend_, tokens, kCols);
    Activation x = Filled(*backend_, tokens, weight.rows());
    Add(name, unit, amount, roof, [&] { backend_->ProjectResidual(a, {.out = &weight}, x); });
  }

  template <typename Body>
  void Add(const std::string& name, const std::string& unit, double amount, double roof,
           const Body& body) {
    report_.figures.push_back(
        {name, unit, amount, cpu::MedianSeconds(options_.repeats, body), roof});
  }

  Batch SequenceBatch(int64_t context, int64_t tokens) {
    Batch batch;
    batch.tokens.resize(tokens);
    batch.positions.resize(batch.tokens.size());
    std::iota(batch.positions.begin(), batch.positions.end(),
              static_cast<int32_t>(context - tokens));
    batch.starts = {0, static_cast<int32_t>(tokens)};
    batch.context_lengths = {static_cast<int32_t>(context)};
    batch.max_blocks = static_cast<int32_t>(BlocksFor(context));
    batch.block_table.resize(batch.max_blocks);
    std::iota(batch.block_table.begin(), batch.block_table.end(), 0);
    return batch;
  }

  struct Heads {
    const char* name;
    int64_t query;
    int64_t kv;
  };

  // Attention of the last `tokens` of a context. Calls cycle through the layers of a cache that
  // together are as large as the weights of a one-row product, so that the caches are cold; all
  // layers hold the same values.
  template <typename Amount>
  void Attend(const std::string& prefix, const Heads& heads, DType dtype, int64_t context,
              int64_t tokens, const std::string& unit, double roof, const Amount& amount) {
    const std::string name = prefix + ", " + heads.name + " heads";
    if (!Wanted(name)) return;
    const AttentionShape shape{.num_heads = heads.query, .num_kv_heads = heads.kv, .head_dim = 128};
    KvShape kv{.num_layers = 1, .num_kv_heads = heads.kv, .head_dim = 128, .dtype = dtype};
    const int64_t layer_bytes = BlocksFor(context) * backend_->KvBlockBytes(kv);
    kv.num_layers = std::max<int64_t>(1, options_.weight_bytes / layer_bytes);
    const auto pages = backend_->MakeKvPages(kv, BlocksFor(context));
    // A small number in every type. Untouched memory would be backed by a single page of zeros.
    std::memset(static_cast<HostKvPages&>(*pages).data(), 0x3c,
                static_cast<size_t>(pages->size_bytes()));
    const Batch batch = SequenceBatch(context, tokens);
    const Activation q = Filled(*backend_, tokens, heads.query * kv.head_dim);
    Activation out = backend_->MakeActivation(tokens, q.cols);
    int64_t step = 0;
    backend_->BeginStep(batch, *pages);
    Add(name, unit, amount(layer_bytes), roof,
        [&] { backend_->Attention(q, shape, {}, step++ % kv.num_layers, out); });
    backend_->EndStep();
  }

  void Attention() {
    for (const Heads& heads : {Heads{"48/8", 48, 8}, Heads{"16/4", 16, 4}}) {
      for (const auto& [dtype, name] :
           {std::pair{DType::kF32, "float32"}, {DType::kBF16, "bf16"}, {DType::kI8, "int8"}}) {
        Attend("decode attention, " + std::to_string(options_.context) + " keys, " + name, heads,
               dtype, options_.context, 1, "GB/s", report_.roofline.read_bytes_per_second,
               [](int64_t bytes) { return static_cast<double>(bytes); });
        for (const int64_t tokens : {options_.context / 16, options_.context / 2}) {
          Attend("prefill attention, " + std::to_string(tokens) + " tokens, " + name, heads, dtype,
                 tokens, tokens, "GFLOP/s", report_.roofline.float_flops_per_second, [&](int64_t) {
                   return static_cast<double>(tokens * (tokens + 1) / 2 * heads.query * 4 * 128);
                 });
        }
      }
    }
  }

  KernelBenchOptions options_;
  std::unique_ptr<Backend> backend_;
  KernelReport report_;
};

}  // namespace

KernelReport BenchKernels(const KernelBenchOptions& options) { return KernelBench(options).Run(); }

}  // namespace nibble
