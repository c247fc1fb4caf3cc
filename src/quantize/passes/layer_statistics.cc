#include "quantize/passes/layer_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "base/check.h"
#include "nibble/error.h"

namespace nibble {
namespace {

size_t Size(int64_t value) { return static_cast<size_t>(value); }

class AttentionTaps : public LayerObserver {
 public:
  AttentionTaps(AttentionHessians& hessians, GptqAlgebra& algebra)
      : hessians_(&hessians), algebra_(&algebra) {}

  void AttentionInput(const Activation& normed) override {
    hessians_->input.Add(normed, nullptr, 0, normed.rows, *algebra_);
  }
  void AttentionOutput(const Activation& attended) override {
    hessians_->output.Add(attended, nullptr, 0, attended.rows, *algebra_);
  }

 private:
  AttentionHessians* hessians_;
  GptqAlgebra* algebra_;
};

}  // namespace

LayerStatistics::LayerStatistics(const ModelSpec& spec, Backend& backend, ActivationStream& stream,
                                 Workspace& workspace,
                                 std::function<std::string(int64_t)> describe_token)
    : spec_(&spec),
      backend_(&backend),
      stream_(&stream),
      workspace_(&workspace),
      describe_token_(std::move(describe_token)),
      layer_(backend) {}

void LayerStatistics::RunAttention(int64_t layer, const LayerWeights& weights,
                                   const HiddenStates& hidden, HiddenStates* middle,
                                   AttentionHessians& attention, RouterCensus& census,
                                   const ExpertSelection& selection,
                                   std::vector<ExpertHessians>* experts) {
  AttentionTaps taps(attention, backend_->algebra());
  LayerScratch& scratch = workspace_->scratch;
  stream_->ForEach(hidden, middle, [&](const TokenBatch& batch) {
    layer_.Attention(spec_->layer(layer), weights, 0, workspace_->x, scratch, &taps);
    if (!attention.input.finite()) {
      ThrowNonFinite(layer, "the input of attention", scratch.normed, nullptr, batch.first_token);
    }
    if (!attention.output.finite()) {
      ThrowNonFinite(layer, "the output of attention", scratch.attended, nullptr,
                     batch.first_token);
    }
    layer_.Route(spec_->layer(layer), weights, workspace_->x, scratch);
    backend_->Download(*scratch.routing, routed_);
    census.Add(routed_, batch.first_token);
    if (experts != nullptr) {
      AddExperts(layer, weights, batch, selection, 0, routed_.num_experts, *experts);
    }
  });
}

void LayerStatistics::RunExperts(int64_t layer, const LayerWeights& weights,
                                 const HiddenStates& middle, const ExpertSelection& selection,
                                 int64_t first, int64_t last,
                                 std::vector<ExpertHessians>& hessians) {
  stream_->ForEach(middle, nullptr, [&](const TokenBatch& batch) {
    layer_.Route(spec_->layer(layer), weights, workspace_->x, workspace_->scratch);
    backend_->Download(*workspace_->scratch.routing, routed_);
    AddExperts(layer, weights, batch, selection, first, last, hessians);
  });
}

// Runs as many experts at a time as fit in scratch.g.
void LayerStatistics::AddExperts(int64_t layer, const LayerWeights& weights,
                                 const TokenBatch& batch, const ExpertSelection& selection,
                                 int64_t first, int64_t last,
                                 std::vector<ExpertHessians>& hessians) {
  LayerScratch& scratch = workspace_->scratch;
  // Slots that g has room for, whatever shape it had last.
  const int64_t capacity = scratch.g.capacity / spec_->layer(layer).intermediate;
  for (int64_t begin = first; begin < last;) {
    int64_t end = last;
    SelectSlots(routed_, batch.first_token, selection, begin, end, slots_);
    if (slots_.num_slots() > capacity) {
      end = begin + 1;
      while (slots_.expert_starts[Size(end) + 1] <= capacity) ++end;
      SelectSlots(routed_, batch.first_token, selection, begin, end, slots_);
    }
    backend_->Upload(slots_, *scratch.routing);
    layer_.ExpertsMiddle(weights, scratch);
    AddSlots(begin, end, hessians, first);
    for (int64_t expert = begin; expert < end; ++expert) {
      const ExpertHessians& sums = hessians[Size(expert - first)];
      if (sums.input.finite() && sums.middle.finite()) continue;
      const Activation& x = sums.input.finite() ? scratch.g : scratch.h;
      ThrowNonFinite(
          layer,
          fmt::format("{} of expert {}", sums.input.finite() ? "w2's input" : "the input", expert),
          x, sums.input.finite() ? &slots_.slot_tokens : nullptr, batch.first_token);
    }
    begin = end;
  }
}

void LayerStatistics::AddSlots(int64_t first, int64_t last, std::vector<ExpertHessians>& hessians,
                               int64_t hessians_first) {
  const LayerScratch& scratch = workspace_->scratch;
  GptqAlgebra& algebra = backend_->algebra();
  struct Sum {
    Hessian* hessian;
    const Activation* x;
    const int32_t* rows;
    int64_t first;
    int64_t count;
    int64_t work() const { return count * hessian->size() * hessian->size(); }
  };
  std::vector<Sum> sums;
  for (int64_t expert = first; expert < last; ++expert) {
    const int64_t begin = slots_.expert_starts[Size(expert)];
    const int64_t count = slots_.expert_starts[Size(expert) + 1] - begin;
    if (count == 0) continue;
    ExpertHessians& of_expert = hessians[Size(expert - hessians_first)];
    sums.push_back({&of_expert.input, &scratch.h, slots_.slot_tokens.data() + begin, 0, count});
    sums.push_back({&of_expert.middle, &scratch.g, nullptr, begin, count});
  }
  // The largest first, for load balance.
  std::ranges::sort(sums, std::greater(), &Sum::work);
  const auto add = [&](int64_t index, int) {
    const Sum& sum = sums[Size(index)];
    sum.hessian->Add(*sum.x, sum.rows, sum.first, sum.count, algebra);
  };
  const int64_t count = static_cast<int64_t>(sums.size());
  if (count >= 2 * algebra.threads().num_threads() &&
      std::max(scratch.h.cols, scratch.g.cols) <= kSmallHessian) {
    algebra.threads().ParallelFor(count, add);
  } else {
    for (int64_t index = 0; index < count; ++index) add(index, 0);
  }
}

void LayerStatistics::ThrowNonFinite(int64_t layer, const std::string& where, const Activation& x,
                                     const std::vector<int32_t>* slot_tokens,
                                     int64_t first_token) const {
  std::vector<float> host(Size(x.rows * x.cols));
  backend_->Download(x, host);
  const auto found = std::ranges::find_if(host, [](float value) { return !std::isfinite(value); });
  // Row 0 also stands for "all values are finite, but their squares overflow".
  const int64_t bad = found == host.end() ? 0 : (found - host.begin()) / x.cols;
  const int64_t token = slot_tokens != nullptr ? (*slot_tokens)[Size(bad)] : bad;
  throw Error(ErrorCode::kInvalidData,
              fmt::format("layer {}: {} is not finite (or its square overflows) at {}; check the "
                          "weights of this layer, or leave that row out of the calibration",
                          layer, where, describe_token_(first_token + token)));
}

}  // namespace nibble
