#include "cli/bench_steps.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <vector>

#include "model/mixtral.h"
#include "model/mixtral_weights.h"

namespace nibble {
namespace {

constexpr int64_t kBlockSize = 16;
constexpr int64_t kRoofBytes = int64_t{256} << 20;
constexpr int64_t kFillTokens = 512;  // a step, while the context is filled

double WeightBytes(const WeightView& view) {
  if (const auto* packed = std::get_if<PackedView>(&view)) {
    double bytes = static_cast<double>(packed->packed.size_bytes() + packed->scales.size_bytes());
    if (packed->zero_point) bytes += static_cast<double>(packed->zero_point->size_bytes());
    return bytes;
  }
  return static_cast<double>(std::get<TensorView>(view).size_bytes());
}

Batch MakeBatch(const ModelConfig& config, int64_t first, int64_t tokens, int64_t num_blocks) {
  Batch batch;
  for (int64_t position = first; position < first + tokens; ++position) {
    batch.positions.push_back(static_cast<int32_t>(position));
    batch.tokens.push_back(static_cast<int32_t>((position * 7919 + 13) % config.vocab_size));
  }
  batch.starts = {0, static_cast<int32_t>(tokens)};
  batch.context_lengths = {static_cast<int32_t>(first + tokens)};
  batch.max_blocks = static_cast<int32_t>(num_blocks);
  batch.block_table.resize(static_cast<size_t>(num_blocks));
  std::iota(batch.block_table.begin(), batch.block_table.end(), 0);
  batch.logit_rows = {static_cast<int32_t>(tokens - 1)};
  return batch;
}

}  // namespace

double LinearWork::MinimumSeconds(const cpu::Roofline& roofline) const {
  return std::max(weight_bytes / roofline.read_bytes_per_second,
                  float_flops / roofline.float_flops_per_second +
                      int4_ops / roofline.packed_ops_per_second(4) +
                      int8_ops / roofline.packed_ops_per_second(8));
}

LinearWork WorkOfStep(const Checkpoint& checkpoint, int64_t tokens) {
  const ModelConfig& config = checkpoint.config();
  const double share =
      static_cast<double>(config.num_experts_per_token) / static_cast<double>(config.num_experts);
  LinearWork work;
  for (const LinearSpec& spec : AllLinears(config)) {
    const bool is_expert = spec.module.find(".experts.") != std::string::npos;
    const bool is_head = spec.module == "lm_head";
    const WeightView view = FindLinear(checkpoint, spec);
    // The expected part of the experts that some token of the step chooses.
    const double read = is_expert ? 1.0 - std::pow(1.0 - share, static_cast<double>(tokens)) : 1.0;
    work.weight_bytes += read * WeightBytes(view);
    const double uses = is_head ? 1.0 : static_cast<double>(tokens) * (is_expert ? share : 1.0);
    const double ops = 2.0 * uses * static_cast<double>(spec.rows * spec.cols);
    const auto* packed = std::get_if<PackedView>(&view);
    (packed == nullptr   ? work.float_flops
     : packed->bits == 4 ? work.int4_ops
                         : work.int8_ops) += ops;
  }
  return work;
}

StepReport BenchSteps(const StepBenchOptions& options) {
  StepReport report;
  report.tokens = options.tokens;
  report.roofline = cpu::MeasureRoofline(options.backend, options.repeats, kRoofBytes);

  const Checkpoint checkpoint(options.directory);
  report.work = WorkOfStep(checkpoint, options.tokens);
  const auto backend = MakeBackend("cpu", options.backend);
  report.backend = backend->name();
  const ModelConfig config = checkpoint.config();
  Mixtral model(checkpoint, *backend, std::max(options.tokens, kFillTokens));

  const bool decode = options.tokens == 1;
  const int64_t total = options.context + options.tokens * (decode ? options.repeats + 1 : 1);
  const int64_t num_blocks = (total + kBlockSize - 1) / kBlockSize;
  KvCache kv = model.MakeKvCache(num_blocks, DType::kF32, kBlockSize);
  std::vector<float> logits;
  for (int64_t first = 0; first < options.context; first += kFillTokens) {
    const int64_t count = std::min(kFillTokens, options.context - first);
    model.Forward(MakeBatch(config, first, count, num_blocks), kv, logits);
  }
  int64_t position = options.context;
  report.seconds = cpu::MedianSeconds(options.repeats, [&] {
    model.Forward(MakeBatch(config, position, options.tokens, num_blocks), kv, logits);
    if (decode) ++position;
  });
  return report;
}

}  // namespace nibble
