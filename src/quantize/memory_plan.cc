#include "quantize/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/progress.h"

namespace nibble {
namespace {

constexpr int64_t kFloat = 4;
// The program, its libraries, tokenizer and calibration tokens, as measured.
constexpr int64_t kProgramBytes = int64_t{64} << 20;

struct Way {
  int64_t experts_at_once = 1;
  bool in_file = false;
};

// Memory at the peak of a layer quantized this way.
std::vector<QuantizePlan::Item> Items(const MemoryQuestion& question, const Way& way,
                                      int64_t* scratch_disk_bytes) {
  const ModelConfig& config = *question.config;
  const int64_t hidden = config.hidden_size;
  const int64_t middle = config.intermediate_size;
  const int64_t query = config.num_heads * config.head_dim;
  const int64_t kv = config.num_kv_heads * config.head_dim;
  const int64_t step = question.batches->max_tokens;
  const int64_t tokens = question.batches->num_tokens;
  const int64_t experts = config.num_experts;
  const bool gptq = question.recipe->method == Method::kGptq;
  const bool fused = way.experts_at_once >= experts && !question.top_up;

  const int64_t attention_weights = hidden * (2 * query + 2 * kv);
  const int64_t expert_weights = 3 * hidden * middle;
  const auto packed_bytes = [&](int64_t weights) {
    const int64_t group = question.recipe->GroupSize(hidden);
    return weights * question.recipe->bits / 8 + weights / group * 2;
  };
  const int64_t packed_layer = packed_bytes(attention_weights + experts * expert_weights);

  const int64_t copies = gptq && !fused ? 2 : 1;
  const int64_t activations = copies * tokens * hidden * kFloat;
  *scratch_disk_bytes = way.in_file ? activations : 0;

  const int64_t step_bytes =
      kFloat * step * (4 * hidden + 2 * query + config.num_experts_per_token * middle) +
      kFloat * question.batches->num_blocks * kKvBlockSize * 2 * kv +
      2 * question.probe_tokens * hidden * kFloat;
  const int64_t gathered = std::min<int64_t>(step, 2048) * hidden * kFloat;

  const int64_t width = std::max(hidden, middle);
  const int64_t chunk_rows = width > 2048 ? 512 : 256;
  const int64_t solver = question.threads * chunk_rows * width * (2 * kFloat + 3) +
                         width * 128 * 2 * kFloat +
                         std::min<int64_t>(2048, width / 2) * width * kFloat;

  const int64_t hessians_of_attention = kFloat * (hidden * hidden + query * query);
  const int64_t hessians_of_experts =
      way.experts_at_once * kFloat * (hidden * hidden + middle * middle);
  const int64_t dense_experts =
      way.experts_at_once * expert_weights * question.dense_bytes_per_weight;
  const int64_t dense_attention = attention_weights * question.dense_bytes_per_weight;

  const int64_t outer = config.vocab_size * hidden * question.dense_bytes_per_weight +
                        (question.probe_tokens > 0 ? 320 * config.vocab_size * kFloat : 0);

  std::vector<QuantizePlan::Item> items = {{"program and libraries", kProgramBytes},
                                           {"head and logits of the probe", outer},
                                           {"activations of a step", step_bytes + gathered}};
  if (!way.in_file) items.push_back({"activations of all tokens", activations});
  if (question.top_up) {
    items.push_back({"what the router thought of them", tokens * experts * kFloat});
  }
  if (!gptq) {
    items.push_back({"a layer, packed, twice", 2 * packed_layer});
    items.push_back(
        {"one dense expert, rounding", expert_weights * question.dense_bytes_per_weight + solver});
    return items;
  }
  // Either the statistics and the solution of a group of experts, beside what is already packed, or
  // the pass through the finished layer.
  const int64_t solving = dense_experts + hessians_of_experts + solver + packed_layer +
                          (fused ? dense_attention + hessians_of_attention : 0);
  const int64_t attention = dense_attention + hessians_of_attention + solver + packed_layer;
  const int64_t advancing = 2 * packed_layer;
  if (solving >= std::max(attention, advancing)) {
    items.push_back({fmt::format("Hessians of {} of {} experts", way.experts_at_once, experts),
                     hessians_of_experts + (fused ? hessians_of_attention : 0)});
    items.push_back({"their dense weights", dense_experts + (fused ? dense_attention : 0)});
    items.push_back({"solver", solver});
    items.push_back({"the layer, packed", packed_layer});
  } else if (attention >= advancing) {
    items.push_back({"Hessians of attention", hessians_of_attention});
    items.push_back({"its dense weights", dense_attention});
    items.push_back({"solver", solver});
    items.push_back({"the layer, packed", packed_layer});
  } else {
    items.push_back({"the finished layer, packed, twice", advancing});
  }
  return items;
}

int64_t Sum(const std::vector<QuantizePlan::Item>& items) {
  int64_t sum = 0;
  for (const QuantizePlan::Item& item : items) sum += item.bytes;
  return sum;
}

}  // namespace

void PlanMemory(const MemoryQuestion& question, QuantizePlan& plan) {
  const int64_t experts = question.config->num_experts;
  plan.budget_bytes = question.budget_bytes;
  // Prefers memory to a file, and many experts at once to few.
  for (const bool in_file : {false, true}) {
    for (int64_t at_once = experts; at_once >= 1; --at_once) {
      const Way way{at_once, in_file};
      plan.memory = Items(question, way, &plan.scratch_disk_bytes);
      plan.memory_bytes = Sum(plan.memory);
      plan.experts_at_once = at_once;
      plan.activations_in_file = in_file;
      if (plan.memory_bytes <= question.budget_bytes) return;
    }
  }
  std::string list;
  for (const QuantizePlan::Item& item : plan.memory) {
    list += fmt::format("{}{} {}", list.empty() ? "" : ", ", item.name, FormatBytes(item.bytes));
  }
  plan.lacking.push_back(fmt::format(
      "one expert at a time needs {} of memory ({}), the budget is {}; give more "
      "with `memory_bytes`, or fewer calibration tokens with `samples` or `max_seq_len`",
      FormatBytes(plan.memory_bytes), list, FormatBytes(question.budget_bytes)));
}

}  // namespace nibble
