#include "quantize/layer_quantizer.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/interrupt.h"

namespace nibble {
namespace {

size_t Size(int64_t value) { return static_cast<size_t>(value); }

// Indices into LayerLinears.
constexpr size_t kQ = 0, kK = 1, kV = 2, kO = 3;
size_t ExpertLinear(int64_t expert, size_t linear) { return 4 + Size(expert) * 3 + linear; }
constexpr size_t kW1 = 0, kW2 = 1, kW3 = 2;

}  // namespace

LayerQuantizer::LayerQuantizer(const LayerContext& context)
    : context_(context),
      config_(&context.source->config()),
      statistics_(*context.spec, *context.backend, *context.stream, *context.workspace,
                  context.describe_token),
      work_(CountLayerWork(*config_, context.stream->batches(), context.all_experts)) {}

DenseLinear LayerQuantizer::Dense(const TensorSpec& spec) const {
  return {spec.module, FindDense(*context_.source, spec)};
}

QuantizedLayer LayerQuantizer::Quantize(int64_t layer) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<TensorSpec> specs = LayerLinears(*config_, layer);
  const int64_t num_experts = config_->num_experts;
  QuantizedLayer result;
  result.linears.resize(specs.size());
  result.report.layer = layer;
  result.report.expert_extra_tokens.resize(Size(num_experts));

  if (!gptq()) {
    RoundAll(specs, result);
    MoveProbe(layer);
  } else {
    PhaseClock& clock = *context_.clock;
    const int64_t group = context_.experts_at_once;
    // One pass over the tokens, unless experts are calibrated in groups or must be counted first.
    const bool fused = group >= num_experts && !context_.top_up;
    NIBBLE_CHECK(fused || context_.middle != nullptr);
    LayerWeights weights;
    {
      const auto phase = clock.Measure("load weights");
      weights = fused ? LoadLayer(*context_.source, layer, *context_.backend)
                      : LoadLayerWithoutExperts(*context_.source, layer, *context_.backend);
    }
    ReadAhead(layer, fused ? num_experts : 0);

    ExpertSelection selection;
    selection.all_tokens = context_.all_experts;
    RouterCensus census(context_.stream->batches().num_tokens, num_experts, context_.top_up);
    std::vector<ExpertHessians> experts;
    const auto make_hessians = [&](int64_t count) {
      experts.clear();
      for (int64_t i = 0; i < count; ++i) {
        experts.push_back({Hessian(config_->hidden_size), Hessian(config_->intermediate_size)});
      }
    };
    std::optional<AttentionHessians> attention;
    attention.emplace(Hessian(config_->hidden_size),
                      Hessian(config_->num_heads * config_->head_dim));
    if (fused) make_hessians(num_experts);
    {
      const auto phase = clock.Measure("calibrate", fused ? work_.calibrate() : work_.attention);
      statistics_.RunAttention(layer, weights, *context_.hidden, fused ? nullptr : context_.middle,
                               *attention, census, selection, fused ? &experts : nullptr);
    }
    {
      const auto phase = clock.Measure("probe");
      context_.probe->RunAttention(layer, weights);
    }
    for (auto* weight : {&weights.qkv, &weights.out}) weight->reset();
    std::vector<Tap> taps = {{{kQ, kK, kV}, &attention->input}, {{kO}, &attention->output}};
    if (!fused) {
      Solve(specs, taps, result);
      taps.clear();
      attention.reset();
    }
    result.report.expert_tokens.assign(census.tokens_per_expert().begin(),
                                       census.tokens_per_expert().end());
    if (context_.top_up) {
      // Enough tokens for Hessians of full rank, but no more than an even share.
      const int64_t share =
          context_.stream->batches().num_tokens * config_->num_experts_per_token / num_experts;
      selection.extra_tokens =
          census.TopUp(std::min(std::max(config_->hidden_size, config_->intermediate_size), share));
    }

    for (int64_t first = 0; first < num_experts; first += group) {
      const int64_t last = std::min(first + group, num_experts);
      if (!fused) {
        {
          const auto phase = clock.Measure("load weights");
          weights.experts = LoadExperts(*context_.source, layer, first, last, *context_.backend);
        }
        ReadAhead(layer, last);
        make_hessians(last - first);
        const double share = static_cast<double>(last - first) / static_cast<double>(num_experts);
        const auto phase =
            clock.Measure("calibrate", share * (work_.calibrate() - work_.attention));
        statistics_.RunExperts(layer, weights, *context_.middle, selection, first, last, experts);
      }
      RunExpertsOfProbe(layer, weights, first, last);
      weights.experts = {};
      for (int64_t e = first; e < last; ++e) {
        ExpertHessians& sums = experts[Size(e - first)];
        result.report.expert_extra_tokens[Size(e)] =
            sums.input.tokens() - result.report.expert_tokens[Size(e)];
        taps.push_back({{ExpertLinear(e, kW1), ExpertLinear(e, kW3)}, &sums.input});
        taps.push_back({{ExpertLinear(e, kW2)}, &sums.middle});
      }
      Solve(specs, taps, result);
      taps.clear();
      experts.clear();
    }
  }

  for (const std::optional<QuantizedLinear>& linear : result.linears) {
    if (!linear) continue;
    result.report.linears.push_back(linear->report);
    result.report.linears.back().fell_back = gptq() && linear->report.method != Name(Method::kGptq);
  }
  const int64_t group_size = context_.recipe->GroupSize(config_->hidden_size);
  const int64_t enough = std::max(4 * group_size, context_.stream->batches().num_tokens / 200);
  for (size_t e = 0; e < result.report.expert_tokens.size(); ++e) {
    if (result.report.expert_tokens[e] < enough) {
      result.report.starved_experts.push_back(static_cast<int64_t>(e));
    }
  }
  result.report.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

void LayerQuantizer::ReadAhead(int64_t layer, int64_t first) {
  int64_t last = std::min(first + context_.experts_at_once, config_->num_experts);
  size_t begin = ExpertLinear(first, 0);
  if (first == config_->num_experts) {
    if (++layer == config_->num_layers) return;
    begin = 0;
    last = context_.experts_at_once;
  }
  const std::vector<TensorSpec> specs = LayerLinears(*config_, layer);
  std::vector<TensorView> weights;
  for (size_t i = begin; i < ExpertLinear(last, 0); ++i) weights.push_back(Dense(specs[i]).weight);
  if (reader_.joinable()) reader_.join();
  reader_ = std::jthread([source = context_.source, weights = std::move(weights)] {
    for (const TensorView& weight : weights) source->WillNeed(weight);
  });
}

void LayerQuantizer::RunExpertsOfProbe(int64_t layer, const LayerWeights& weights, int64_t first,
                                       int64_t last) {
  const auto phase = context_.clock->Measure("probe");
  context_.probe->RunExperts(layer, weights, first, last);
}

void LayerQuantizer::MoveProbe(int64_t layer) {
  if (context_.probe->empty()) return;
  const auto phase = context_.clock->Measure("probe");
  LayerWeights weights = LoadLayerWithoutExperts(*context_.source, layer, *context_.backend);
  context_.probe->RunAttention(layer, weights);
  for (int64_t e = 0; e < config_->num_experts; ++e) {
    weights.experts = LoadExperts(*context_.source, layer, e, e + 1, *context_.backend);
    context_.probe->RunExperts(layer, weights, e, e + 1);
  }
}

void LayerQuantizer::Solve(const std::vector<TensorSpec>& specs, const std::vector<Tap>& taps,
                           QuantizedLayer& result) {
  double gflop = 0;
  int64_t largest = 0;
  for (const Tap& tap : taps) {
    const double n = static_cast<double>(tap.hessian->size());
    gflop += 2.0 / 3.0 * n * n * n / 1e9;
    for (const size_t i : tap.indices) gflop += static_cast<double>(specs[i].rows) * n * n / 1e9;
    largest = std::max(largest, tap.hessian->size());
  }
  const auto phase = context_.clock->Measure("solve", gflop);
  GptqAlgebra& algebra = context_.backend->algebra();
  const auto solve = [&](const Tap& tap) {
    std::vector<DenseLinear> linears;
    std::vector<size_t> indices;
    for (const size_t i : tap.indices) {
      if (!context_.output->IsQuantized(specs[i].module)) continue;
      linears.push_back(Dense(specs[i]));
      indices.push_back(i);
    }
    std::vector<QuantizedLinear> solved =
        QuantizeWithHessian(*context_.recipe, context_.output->dtype(), linears,
                            tap.hessian->data(), tap.hessian->tokens(), algebra);
    for (size_t i = 0; i < solved.size(); ++i) {
      result.linears[indices[i]] = std::move(solved[i]);
      context_.source->DontNeed(linears[i].weight);
    }
  };
  if (largest <= kSmallHessian &&
      static_cast<int64_t>(taps.size()) >= 2 * algebra.threads().num_threads()) {
    algebra.threads().ParallelFor(static_cast<int64_t>(taps.size()),
                                  [&](int64_t i, int) { solve(taps[Size(i)]); });
  } else {
    for (const Tap& tap : taps) {
      ThrowIfInterrupted();
      solve(tap);
    }
  }
}

void LayerQuantizer::RoundAll(const std::vector<TensorSpec>& specs, QuantizedLayer& result) {
  const auto phase = context_.clock->Measure("round");
  for (size_t i = 0; i < specs.size(); ++i) {
    if (!context_.output->IsQuantized(specs[i].module)) continue;
    ThrowIfInterrupted();
    const DenseLinear linear = Dense(specs[i]);
    result.linears[i] = std::move(RoundToNearest(*context_.recipe, context_.output->dtype(),
                                                 {&linear, 1}, context_.backend->algebra())[0]);
    context_.source->DontNeed(linear.weight);
  }
}

}  // namespace nibble
