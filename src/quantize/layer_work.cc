#include "quantize/layer_work.h"

#include <chrono>
#include <vector>

#include "backend/host/host_data.h"

namespace nibble {

LayerWork CountLayerWork(const ModelConfig& config, const TokenBatches& batches, bool all_experts) {
  const auto real = [](int64_t value) { return static_cast<double>(value); };
  const double tokens = real(batches.num_tokens);
  const double hidden = real(config.hidden_size);
  const double middle = real(config.intermediate_size);
  const double query = real(config.num_heads * config.head_dim);
  const double kv = real(config.num_kv_heads * config.head_dim);
  const double experts = real(config.num_experts);
  double contexts = 0;  // keys seen, over all tokens
  for (const TokenBatch& batch : batches.batches) {
    for (const int32_t position : batch.batch.positions) contexts += real(position) + 1;
  }
  const double slots = tokens * real(config.num_experts_per_token);
  const double calibrated_slots = all_experts ? tokens * experts : slots;

  LayerWork work;
  work.attention = 2 * tokens * hidden * (2 * query + 2 * kv) + 4 * query * contexts;
  work.gate_up = 4 * slots * hidden * middle;
  work.down = 2 * slots * hidden * middle;
  work.calibrated_gate_up = 4 * calibrated_slots * hidden * middle;
  work.statistics = tokens * (hidden * hidden + query * query) +
                    calibrated_slots * (hidden * hidden + middle * middle);
  const auto factor = [](double n) { return 2.0 / 3.0 * n * n * n; };
  const auto sweep = [](double rows, double cols) { return rows * cols * cols; };
  work.solve =
      factor(hidden) + sweep(query + 2 * kv, hidden) + factor(query) + sweep(hidden, query) +
      experts *
          (factor(hidden) + 2 * sweep(middle, hidden) + factor(middle) + sweep(hidden, middle));
  for (double* part : {&work.attention, &work.gate_up, &work.down, &work.statistics,
                       &work.calibrated_gate_up, &work.solve}) {
    *part /= 1e9;
  }
  return work;
}

double MeasureGflopPerSecond(GptqAlgebra& algebra) {
  constexpr int64_t kSize = 256;
  constexpr double kSeconds = 0.01;
  using Clock = std::chrono::steady_clock;
  const size_t elements = static_cast<size_t>(kSize * kSize);
  std::vector<double> rates(algebra.threads().num_threads());
  algebra.threads().ParallelFor(algebra.threads().num_threads(), [&](int64_t index, int) {
    const std::vector<float> x(elements, 0.5f);
    std::vector<float> h(elements, 0.0f);
    const auto multiply = [&] {
      algebra.GramUpdate(BorrowHost(x.data(), kSize, kSize), nullptr, 0, kSize, h.data());
    };
    multiply();
    const Clock::time_point start = Clock::now();
    double seconds = 0;
    int64_t count = 0;
    while (seconds < kSeconds) {
      multiply();
      ++count;
      seconds = std::chrono::duration<double>(Clock::now() - start).count();
    }
    rates[index] = static_cast<double>(kSize * kSize * kSize * count) / seconds / 1e9;
  });
  double sum = 0;
  for (const double rate : rates) sum += rate;
  return sum;
}

}  // namespace nibble
