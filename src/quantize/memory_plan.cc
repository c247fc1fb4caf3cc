#include "quantize/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/progress.h"
#include "quantize/gptq/gptq.h"
#include "quantize/gptq/hessian.h"
#include "quantize/passes/activation_stream.h"
#include "quantize/passes/hidden_states.h"
#include "quantize/passes/probe.h"
#include "quantize/passes/router_census.h"

namespace nibble {
namespace {

// The program, its libraries, tokenizer and calibration tokens, as measured.
constexpr int64_t kProgramBytes = int64_t{64} << 20;

// What the parts of a layer take, as those who make them say. Bytes.
struct LayerSizes {
  int64_t dense_attention = 0;  // weights that the backend prepared
  int64_t dense_expert = 0;
  int64_t attention_hessians = 0;
  int64_t expert_hessians = 0;
  int64_t solver = 0;  // of the largest Linear
};

LayerSizes SizesOf(const MemoryQuestion& question, const LayerSpec& layer) {
  const int64_t hidden = question.spec.hidden_size;
  const int64_t middle = layer.intermediate;
  const int64_t query = layer.q_rows();
  const auto matrix = [&](int64_t rows, int64_t cols) -> WeightView {
    return TensorView(nullptr, question.stored_dtype, Shape{rows, cols});
  };
  const auto prepared = [&](Role role, const std::vector<WeightView>& parts) {
    return question.backend.WeightBytes(parts, role);
  };
  LayerSizes sizes;
  sizes.dense_attention =
      prepared(Role::kQkv, {matrix(query, hidden), matrix(layer.kv_rows(), hidden),
                            matrix(layer.kv_rows(), hidden)}) +
      prepared(Role::kProjection, {matrix(hidden, query)});
  sizes.dense_expert = prepared(Role::kGateUp, {matrix(middle, hidden), matrix(middle, hidden)}) +
                       prepared(Role::kDown, {matrix(hidden, middle)});
  sizes.attention_hessians = Hessian::SizeBytes(hidden) + Hessian::SizeBytes(query);
  sizes.expert_hessians = Hessian::SizeBytes(hidden) + Hessian::SizeBytes(middle);
  const MatrixShape linears[] = {
      {query, hidden}, {hidden, query}, {middle, hidden}, {hidden, middle}};
  for (const MatrixShape& linear : linears) {
    sizes.solver = std::max(sizes.solver, SolverBytes(question.recipe, linear.rows, linear.cols,
                                                      question.backend.algebra()));
  }
  return sizes;
}

LayerPlan::Passes PassesFor(const MemoryQuestion& question, int64_t experts_at_once) {
  if (question.recipe.method == Method::kRoundToNearest) return LayerPlan::Passes::kNone;
  // Topping up needs the counts of all experts before the first of them is done.
  const bool one = experts_at_once >= question.spec.layer(0).router.num_groups() &&
                   question.expert_tokens != ExpertTokens::kToppedUp;
  return one ? LayerPlan::Passes::kOne : LayerPlan::Passes::kInTurns;
}

// Memory at the peak of a layer quantized this way.
MemoryPlan PlanOf(const MemoryQuestion& question, const LayerPlan& layers) {
  const ModelSpec& spec = question.spec;
  const LayerSpec& layer = spec.layer(0);
  const TokenBatches& batches = question.batches;
  const LayerSizes sizes = SizesOf(question, layer);
  const int64_t experts = layer.router.num_groups();
  const int64_t written = question.written_bytes;

  const int64_t outer =
      question.backend.WeightBytes(
          TensorView(nullptr, question.stored_dtype, Shape{spec.vocab_size, spec.hidden_size}),
          Role::kHead) +
      Probe::LogitBytes(spec, question.probe_tokens);
  const int64_t step =
      Workspace::SizeBytes(question.backend, spec, batches.max_tokens, batches.num_blocks) +
      question.backend.algebra().GramScratchBytes(batches.max_tokens, spec.hidden_size) +
      Probe::ActivationBytes(spec, question.probe_tokens);
  const int64_t activations = (layers.keeps_expert_input() ? 2 : 1) *
                              HiddenStates::SizeBytes(batches.num_tokens, spec.hidden_size);
  const int64_t routing =
      RouterCensus::SizeBytes(layer.router, batches.num_tokens,
                              {.choices = layers.keeps_expert_input(),
                               .probabilities = question.expert_tokens == ExpertTokens::kToppedUp});

  MemoryPlan plan;
  plan.layers = layers;
  plan.disk_bytes = layers.activations_in_file ? activations : 0;
  const auto add = [&](const std::string& name, int64_t bytes) {
    plan.items.push_back({name, bytes});
    plan.bytes += bytes;
  };
  add("program and libraries", kProgramBytes);
  add("head and logits of the probe", outer);
  add("activations of a step", step);
  if (!layers.activations_in_file) add("activations of all tokens", activations);
  if (routing > 0) add("what the router thought of them", routing);
  if (layers.passes == LayerPlan::Passes::kNone) {
    add("a layer, packed, twice", 2 * written);
    add("one dense expert, rounding", sizes.dense_expert + sizes.solver);
    return plan;
  }
  // Either the statistics and the solution of a group of experts (with attention, if all is done in
  // one pass) beside what is already packed, or those of attention, or the pass through the
  // finished layer.
  const bool one_pass = layers.passes == LayerPlan::Passes::kOne;
  const int64_t hessians =
      layers.experts_at_once * sizes.expert_hessians + (one_pass ? sizes.attention_hessians : 0);
  const int64_t dense =
      layers.experts_at_once * sizes.dense_expert + (one_pass ? sizes.dense_attention : 0);
  const int64_t solving = hessians + dense + sizes.solver + written;
  const int64_t attention =
      sizes.attention_hessians + sizes.dense_attention + sizes.solver + written;
  if (solving >= std::max(attention, 2 * written)) {
    add(fmt::format("Hessians of {} of {} experts", layers.experts_at_once, experts), hessians);
    add("their dense weights", dense);
    add("solver", sizes.solver);
    add("the layer, packed", written);
  } else if (attention >= 2 * written) {
    add("Hessians of attention", sizes.attention_hessians);
    add("its dense weights", sizes.dense_attention);
    add("solver", sizes.solver);
    add("the layer, packed", written);
  } else {
    add("the finished layer, packed, twice", 2 * written);
  }
  return plan;
}

}  // namespace

MemoryPlan PlanMemory(const MemoryQuestion& question) {
  MemoryPlan plan;
  // Prefers memory to a file, and many experts at once to few.
  for (const bool in_file : {false, true}) {
    for (int64_t at_once = question.spec.layer(0).router.num_groups(); at_once >= 1; --at_once) {
      plan = PlanOf(question, {.passes = PassesFor(question, at_once),
                               .experts_at_once = at_once,
                               .activations_in_file = in_file});
      if (plan.bytes <= question.budget_bytes) return plan;
    }
  }
  std::string list;
  for (const QuantizePlan::Item& item : plan.items) {
    list += fmt::format("{}{} {}", list.empty() ? "" : ", ", item.name, FormatBytes(item.bytes));
  }
  plan.lacking = fmt::format(
      "one expert at a time needs {} of memory ({}), the budget is {}; give more "
      "with `memory_bytes`, or fewer calibration tokens with `samples` or `max_seq_len`",
      FormatBytes(plan.bytes), list, FormatBytes(question.budget_bytes));
  return plan;
}

}  // namespace nibble
