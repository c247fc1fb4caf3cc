#include "quantize/layer_quantizer.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "base/interrupt.h"

namespace nibble {
namespace {

size_t Size(int64_t value) { return static_cast<size_t>(value); }

}  // namespace

LayerQuantizer::LayerQuantizer(const LayerContext& context, HiddenStates expert_input)
    : context_(context),
      expert_input_(std::move(expert_input)),
      statistics_(context.stream),
      work_(CountLayerWork(context.source.config(), context.stream.batches(),
                           context.expert_tokens == ExpertTokens::kAll)) {}

QuantizedLayer LayerQuantizer::Quantize(int64_t layer, const HiddenStates& hidden) {
  const auto start = std::chrono::steady_clock::now();
  Job job{.layer = layer,
          .spec = context_.spec.layer(layer),
          .linears = LayerLinears(context_.source.config(), layer),
          .result = {}};
  job.result.linears.resize(job.linears.size());
  LayerReport& report = job.result.report;
  report.layer = layer;
  report.expert_extra_tokens.resize(job.spec.router.num_experts);

  switch (context_.plan.passes) {
    case LayerPlan::Passes::kNone:
      RoundAll(job);
      break;
    case LayerPlan::Passes::kOne:
      QuantizeInOnePass(job, hidden);
      break;
    case LayerPlan::Passes::kInTurns:
      QuantizeInTurns(job, hidden);
      break;
  }

  const bool gptq = context_.recipe.method == Method::kGptq;
  for (const std::optional<QuantizedLinear>& linear : job.result.linears) {
    if (!linear) continue;
    report.linears.push_back(linear->report);
    report.linears.back().fell_back = gptq && linear->report.method != Name(Method::kGptq);
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::move(job.result);
}

void LayerQuantizer::RoundAll(Job& job) {
  {
    const auto phase = context_.clock.Measure("round");
    for (size_t i = 0; i < job.linears.size(); ++i) {
      if (!context_.output.IsQuantized(job.linears[i].module)) continue;
      ThrowIfInterrupted();
      const DenseLinear linear = Dense(job.linears[i]);
      job.result.linears[i] =
          std::move(RoundToNearest(context_.recipe, context_.output.dtype(), {&linear, 1},
                                   context_.stream.backend().algebra())[0]);
      context_.source.DontNeed(linear.weight);
    }
  }
  MoveProbe(job.layer);
}

void LayerQuantizer::QuantizeInOnePass(Job& job, const HiddenStates& hidden) {
  const int64_t num_experts = job.spec.router.num_experts;
  LayerWeights weights;
  {
    const auto phase = context_.clock.Measure("load weights");
    weights = LoadLayer(context_.source, job.layer, context_.stream.backend());
  }
  ReadAheadNextLayer(job.layer);

  AttentionHessians attention = MakeAttentionHessians(job.spec);
  std::vector<ExpertHessians> experts = MakeExpertHessians(job.spec, num_experts);
  RouterCensus census(job.spec.router, hidden.rows(), {});
  const ExpertSelection selection{.all_tokens = context_.expert_tokens == ExpertTokens::kAll};
  {
    const auto phase = context_.clock.Measure("calibrate", work_.calibrate());
    statistics_.GatherLayer(job.spec, weights, hidden, selection, attention, census, experts);
  }
  {
    const auto phase = context_.clock.Measure("probe");
    context_.probe.RunAttention(job.spec, weights);
    context_.probe.RunExperts(weights, 0, num_experts);
  }
  weights = {};
  CountTokens(census, job.result.report);
  CountExtraTokens(experts, 0, job.result.report);

  std::vector<Input> inputs = InputsOf(job, attention);
  std::ranges::move(InputsOf(job, experts, 0), std::back_inserter(inputs));
  Solve(job, inputs);
}

void LayerQuantizer::QuantizeInTurns(Job& job, const HiddenStates& hidden) {
  const int64_t num_experts = job.spec.router.num_experts;
  const int64_t group = context_.plan.experts_at_once;
  const auto read_ahead = [&](int64_t first) {
    if (first == num_experts) return ReadAheadNextLayer(job.layer);
    ReadAhead(job.layer, first, std::min(first + group, num_experts));
  };
  LayerWeights weights;
  {
    const auto phase = context_.clock.Measure("load weights");
    weights = LoadLayerWithoutExperts(context_.source, job.layer, context_.stream.backend());
  }
  read_ahead(0);

  const bool top_up = context_.expert_tokens == ExpertTokens::kToppedUp;
  RouterCensus census(job.spec.router, hidden.rows(), {.choices = true, .probabilities = top_up});
  {
    AttentionHessians attention = MakeAttentionHessians(job.spec);
    {
      const auto phase = context_.clock.Measure("calibrate", work_.attention);
      statistics_.GatherAttention(job.spec, weights, hidden, attention, census, expert_input_);
    }
    {
      const auto phase = context_.clock.Measure("probe");
      context_.probe.RunAttention(job.spec, weights);
    }
    weights = {};
    Solve(job, InputsOf(job, attention));
  }
  CountTokens(census, job.result.report);

  ExpertSelection selection{.all_tokens = context_.expert_tokens == ExpertTokens::kAll};
  if (top_up) {
    // Enough tokens for Hessians of full rank, but no more than an even share.
    const int64_t share = hidden.rows() * job.spec.router.top_k / num_experts;
    const int64_t rank = std::max(context_.spec.hidden_size, job.spec.intermediate);
    selection.extra_tokens = census.TopUp(std::min(rank, share));
  }
  for (int64_t first = 0; first < num_experts; first += group) {
    const int64_t last = std::min(first + group, num_experts);
    {
      const auto phase = context_.clock.Measure("load weights");
      weights.experts =
          LoadExperts(context_.source, job.layer, first, last, context_.stream.backend());
    }
    read_ahead(last);
    std::vector<ExpertHessians> experts = MakeExpertHessians(job.spec, last - first);
    {
      const double share = static_cast<double>(last - first) / static_cast<double>(num_experts);
      const auto phase =
          context_.clock.Measure("calibrate", share * (work_.calibrate() - work_.attention));
      statistics_.GatherExperts(job.spec, weights, expert_input_, census, selection, first,
                                experts);
    }
    {
      const auto phase = context_.clock.Measure("probe");
      context_.probe.RunExperts(weights, first, last);
    }
    weights.experts = {};
    CountExtraTokens(experts, first, job.result.report);
    Solve(job, InputsOf(job, experts, first));
  }
}

void LayerQuantizer::MoveProbe(int64_t layer) {
  if (context_.probe.empty()) return;
  const auto phase = context_.clock.Measure("probe");
  Backend& backend = context_.stream.backend();
  const LayerSpec& spec = context_.spec.layer(layer);
  LayerWeights weights = LoadLayerWithoutExperts(context_.source, layer, backend);
  context_.probe.RunAttention(spec, weights);
  for (int64_t e = 0; e < spec.router.num_experts; ++e) {
    weights.experts = LoadExperts(context_.source, layer, e, e + 1, backend);
    context_.probe.RunExperts(weights, e, e + 1);
  }
}

AttentionHessians LayerQuantizer::MakeAttentionHessians(const LayerSpec& spec) const {
  return {Hessian(context_.spec.hidden_size), Hessian(spec.q_rows())};
}

std::vector<ExpertHessians> LayerQuantizer::MakeExpertHessians(const LayerSpec& spec,
                                                               int64_t count) const {
  std::vector<ExpertHessians> experts;
  for (int64_t i = 0; i < count; ++i) {
    experts.push_back({Hessian(context_.spec.hidden_size), Hessian(spec.intermediate)});
  }
  return experts;
}

LayerQuantizer::Input LayerQuantizer::InputOf(const Job& job, Tap tap, int64_t expert,
                                              Hessian& hessian) {
  Input input{&hessian};
  for (size_t i = 0; i < job.linears.size(); ++i) {
    const TensorSpec& linear = job.linears[i];
    if (linear.tap == tap && linear.expert == expert) input.linears.push_back(i);
  }
  return input;
}

std::vector<LayerQuantizer::Input> LayerQuantizer::InputsOf(const Job& job,
                                                            AttentionHessians& hessians) {
  return {InputOf(job, Tap::kAttentionInput, -1, hessians.input),
          InputOf(job, Tap::kAttentionOutput, -1, hessians.output)};
}

std::vector<LayerQuantizer::Input> LayerQuantizer::InputsOf(const Job& job,
                                                            std::vector<ExpertHessians>& experts,
                                                            int64_t first) {
  std::vector<Input> inputs;
  for (size_t i = 0; i < experts.size(); ++i) {
    const int64_t expert = first + static_cast<int64_t>(i);
    inputs.push_back(InputOf(job, Tap::kExpertInput, expert, experts[i].input));
    inputs.push_back(InputOf(job, Tap::kExpertMiddle, expert, experts[i].middle));
  }
  return inputs;
}

void LayerQuantizer::CountTokens(const RouterCensus& census, LayerReport& report) const {
  report.expert_tokens.assign(census.tokens_per_expert().begin(), census.tokens_per_expert().end());
  const int64_t group_size = context_.recipe.GroupSize(context_.spec.hidden_size);
  const int64_t enough = std::max(4 * group_size, context_.stream.batches().num_tokens / 200);
  for (size_t e = 0; e < report.expert_tokens.size(); ++e) {
    if (report.expert_tokens[e] < enough) {
      report.starved_experts.push_back(static_cast<int64_t>(e));
    }
  }
}

void LayerQuantizer::CountExtraTokens(const std::vector<ExpertHessians>& experts, int64_t first,
                                      LayerReport& report) const {
  for (size_t i = 0; i < experts.size(); ++i) {
    const size_t e = Size(first) + i;
    report.expert_extra_tokens[e] = experts[i].input.tokens() - report.expert_tokens[e];
  }
}

DenseLinear LayerQuantizer::Dense(const TensorSpec& spec) const {
  return {spec.module, FindDense(context_.source, spec)};
}

void LayerQuantizer::ReadAhead(int64_t layer, int64_t first, int64_t last) {
  std::vector<TensorView> weights;
  for (const TensorSpec& spec : LayerLinears(context_.source.config(), layer)) {
    if (first <= spec.expert && spec.expert < last) weights.push_back(Dense(spec).weight);
  }
  if (reader_.joinable()) reader_.join();
  reader_ = std::jthread([source = &context_.source, weights = std::move(weights)] {
    for (const TensorView& weight : weights) source->WillNeed(weight);
  });
}

void LayerQuantizer::ReadAheadNextLayer(int64_t layer) {
  if (++layer == context_.spec.num_layers()) return;
  ReadAhead(layer, -1, context_.plan.experts_at_once);
}

void LayerQuantizer::Solve(Job& job, const std::vector<Input>& inputs) {
  double gflop = 0;
  int64_t largest = 0;
  for (const Input& input : inputs) {
    const double n = static_cast<double>(input.hessian->size());
    gflop += 2.0 / 3.0 * n * n * n / 1e9;
    for (const size_t i : input.linears) {
      gflop += static_cast<double>(job.linears[i].rows) * n * n / 1e9;
    }
    largest = std::max(largest, input.hessian->size());
  }
  const auto phase = context_.clock.Measure("solve", gflop);
  GptqAlgebra& algebra = context_.stream.backend().algebra();
  const auto solve = [&](const Input& input) {
    std::vector<DenseLinear> linears;
    std::vector<size_t> indices;
    for (const size_t i : input.linears) {
      if (!context_.output.IsQuantized(job.linears[i].module)) continue;
      linears.push_back(Dense(job.linears[i]));
      indices.push_back(i);
    }
    std::vector<QuantizedLinear> solved =
        QuantizeWithHessian(context_.recipe, context_.output.dtype(), linears,
                            input.hessian->data(), input.hessian->tokens(), algebra);
    for (size_t i = 0; i < solved.size(); ++i) {
      job.result.linears[indices[i]] = std::move(solved[i]);
      context_.source.DontNeed(linears[i].weight);
    }
  };
  if (largest <= kSmallHessian &&
      static_cast<int64_t>(inputs.size()) >= 2 * algebra.threads().num_threads()) {
    algebra.threads().ParallelFor(static_cast<int64_t>(inputs.size()),
                                  [&](int64_t i, int) { solve(inputs[i]); });
  } else {
    for (const Input& input : inputs) {
      ThrowIfInterrupted();
      solve(input);
    }
  }
}

}  // namespace nibble
