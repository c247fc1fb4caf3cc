#include "bench/steps.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/batch.h"
#include "model/model.h"
#include "model/weights.h"

namespace nibble {
namespace {

constexpr int64_t kRoofBytes = int64_t{1} << 30;  // larger than any cache
constexpr int64_t kFillTokens = 512;              // a step, while the context is filled

double WeightBytes(const WeightView& view) {
  if (const auto* packed = std::get_if<PackedView>(&view)) {
    double bytes = static_cast<double>(packed->packed.size_bytes() + packed->scales.size_bytes());
    if (packed->zero_point) bytes += static_cast<double>(packed->zero_point->size_bytes());
    return bytes;
  }
  return static_cast<double>(std::get<TensorView>(view).size_bytes());
}

// Tokens [first, first + count) of every sequence. Each has its own pages, and all tokens differ,
// so that they are routed to different experts.
Batch MakeBatch(const ModelConfig& config, const StepShape& shape, int64_t first, int64_t count,
                int64_t blocks_per_sequence) {
  Batch batch;
  batch.starts = {0};
  batch.max_blocks = static_cast<int32_t>(blocks_per_sequence);
  for (int64_t sequence = 0; sequence < shape.sequences; ++sequence) {
    for (int64_t position = first; position < first + count; ++position) {
      batch.positions.push_back(static_cast<int32_t>(position));
      batch.tokens.push_back(
          static_cast<int32_t>((position * 7919 + sequence * 104729 + 13) % config.vocab_size));
    }
    batch.starts.push_back(static_cast<int32_t>(batch.tokens.size()));
    batch.context_lengths.push_back(static_cast<int32_t>(first + count));
    batch.logit_rows.push_back(batch.starts.back() - 1);
  }
  batch.block_table.resize(shape.sequences * blocks_per_sequence);
  std::iota(batch.block_table.begin(), batch.block_table.end(), 0);
  return batch;
}

}  // namespace

double StepWork::MinimumSeconds(const cpu::Roofline& roofline, int activation_bits) const {
  return std::max((weight_bytes + cache_bytes) / roofline.read_bytes_per_second,
                  float_flops / roofline.float_flops_per_second +
                      packed_ops / roofline.packed_ops_per_second(activation_bits));
}

StepWork WorkOfStep(const Checkpoint& checkpoint, const StepShape& shape, DType cache_type) {
  const ModelConfig& config = checkpoint.config();
  const auto tokens = static_cast<double>(shape.total_tokens());
  const double share =
      static_cast<double>(config.num_experts_per_token) / static_cast<double>(config.num_experts);
  StepWork work;
  for (const TensorSpec& spec : TensorsOf(config)) {
    if (!spec.is_linear()) continue;
    const bool is_expert = spec.expert >= 0;
    const bool is_head = spec.part == Part::kHead;
    const WeightView view = FindWeight(checkpoint, spec);
    // The expected share of the experts that at least one token of the step chooses.
    const double read = is_expert ? 1.0 - std::pow(1.0 - share, tokens) : 1.0;
    work.weight_bytes += read * WeightBytes(view);
    const double uses =
        is_head ? static_cast<double>(shape.sequences) : tokens * (is_expert ? share : 1.0);
    const double ops = 2.0 * uses * static_cast<double>(spec.rows * spec.cols);
    (std::holds_alternative<PackedView>(view) ? work.packed_ops : work.float_flops) += ops;
  }
  work.cache_bytes = static_cast<double>(shape.sequences * shape.context * 2 * config.num_layers *
                                         config.num_kv_heads * config.head_dim) *
                     static_cast<double>(DTypeSize(cache_type));
  return work;
}

StepReport BenchSteps(const StepBenchOptions& options) {
  const StepShape& shape = options.shape;
  StepReport report;
  report.shape = shape;
  report.roofline = cpu::MeasureRoofline(options.backend, options.repeats, kRoofBytes);

  const Checkpoint checkpoint(options.directory);
  report.work = WorkOfStep(checkpoint, shape, options.cache_type);
  report.roof_seconds =
      report.work.MinimumSeconds(report.roofline, options.backend.activation_bits);
  const auto backend = MakeBackend("cpu", options.backend);
  report.backend = backend->name();
  const ModelConfig& config = checkpoint.config();
  const int64_t fill = std::max<int64_t>(1, kFillTokens / shape.sequences);
  Model model(checkpoint, *backend, shape.sequences * std::max(shape.tokens, fill));

  const bool decode = shape.tokens == 1;
  const int64_t total = shape.context + shape.tokens * (decode ? options.repeats + 1 : 1);
  const int64_t blocks = BlocksFor(total);
  const auto kv = model.MakeKvPages(shape.sequences * blocks, options.cache_type);
  std::vector<float> logits;
  for (int64_t first = 0; first < shape.context; first += fill) {
    const int64_t count = std::min(fill, shape.context - first);
    model.Forward(MakeBatch(config, shape, first, count, blocks), *kv, logits);
  }
  int64_t position = shape.context;
  report.seconds = cpu::MedianSeconds(options.repeats, [&] {
    model.Forward(MakeBatch(config, shape, position, shape.tokens, blocks), *kv, logits);
    if (decode) ++position;
  });
  return report;
}

LoadReport BenchLoad(const LoadBenchOptions& options) {
  const StepShape first_token;
  LoadReport report;
  report.roofline = cpu::MeasureRoofline(options.backend, options.repeats, kRoofBytes);
  report.roof_seconds = WorkOfStep(Checkpoint(options.directory), first_token, DType::kF32)
                            .MinimumSeconds(report.roofline, options.backend.activation_bits);
  report.seconds = cpu::MedianSeconds(options.repeats, [&] {
    const Checkpoint checkpoint(options.directory);
    const auto backend = MakeBackend("cpu", options.backend);
    Model model(checkpoint, *backend, 1);
    const auto kv = model.MakeKvPages(1);
    std::vector<float> logits;
    model.Forward(MakeBatch(checkpoint.config(), first_token, 0, 1, 1), *kv, logits);
    report.backend = backend->name();
    report.packed = model.packed();
    report.weight_bytes = model.weight_bytes();
  });
  return report;
}

}  // namespace nibble
