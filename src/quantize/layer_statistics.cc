#include "quantize/layer_statistics.h"

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
  AttentionTaps(AttentionHessians& hessians, Linalg& linalg)
      : hessians_(&hessians), linalg_(&linalg) {}

  void AttentionInput(const Activation& normed) override {
    hessians_->input.Add(normed.data(), normed.rows, *linalg_);
  }
  void AttentionOutput(const Activation& attended) override {
    hessians_->output.Add(attended.data(), attended.rows, *linalg_);
  }

 private:
  AttentionHessians* hessians_;
  Linalg* linalg_;
};

// Below this size a Gram update is too small to share among threads, and experts are done side by
// side.
constexpr int64_t kSmallHessian = 1024;

}  // namespace

LayerStatistics::LayerStatistics(const ModelConfig& config, Backend& backend,
                                 ActivationStream& stream, Workspace& workspace,
                                 std::function<std::string(int64_t)> describe_token)
    : config_(&config),
      backend_(&backend),
      stream_(&stream),
      workspace_(&workspace),
      describe_token_(std::move(describe_token)),
      layer_(config, backend),
      gathered_(Size(backend.linalg().num_threads())) {}

void LayerStatistics::RunAttention(int64_t layer, const LayerWeights& weights,
                                   const HiddenStates& hidden, HiddenStates* middle,
                                   AttentionHessians& attention, RouterCensus& census,
                                   const ExpertSelection& selection,
                                   std::vector<ExpertHessians>* experts) {
  AttentionTaps taps(attention, backend_->linalg());
  LayerScratch& scratch = workspace_->scratch;
  stream_->ForEach(hidden, middle, [&](const TokenBatch& batch) {
    layer_.Attention(weights, workspace_->kv.layer(0), workspace_->x, scratch, &taps);
    if (!attention.input.finite()) {
      ThrowNonFinite(layer, "the input of attention", scratch.normed.data(), scratch.normed.rows,
                     scratch.normed.cols, nullptr, batch.first_token);
    }
    if (!attention.output.finite()) {
      ThrowNonFinite(layer, "the output of attention", scratch.attended.data(),
                     scratch.attended.rows, scratch.attended.cols, nullptr, batch.first_token);
    }
    layer_.Route(weights, workspace_->x, scratch);
    census.Add(scratch.routing, batch.first_token);
    if (experts != nullptr) {
      AddExperts(layer, weights, batch, selection, 0, config_->num_experts, *experts);
    }
  });
}

void LayerStatistics::RunExperts(int64_t layer, const LayerWeights& weights,
                                 const HiddenStates& middle, const ExpertSelection& selection,
                                 int64_t first, int64_t last,
                                 std::vector<ExpertHessians>& hessians) {
  stream_->ForEach(middle, nullptr, [&](const TokenBatch& batch) {
    layer_.Route(weights, workspace_->x, workspace_->scratch);
    AddExperts(layer, weights, batch, selection, first, last, hessians);
  });
}

// Experts are run as many at a time as have room in scratch.g.
void LayerStatistics::AddExperts(int64_t layer, const LayerWeights& weights,
                                 const TokenBatch& batch, const ExpertSelection& selection,
                                 int64_t first, int64_t last,
                                 std::vector<ExpertHessians>& hessians) {
  LayerScratch& scratch = workspace_->scratch;
  std::swap(routing_, scratch.routing);  // keep what the router said
  const int64_t capacity = scratch.g.capacity_rows();
  for (int64_t begin = first; begin < last;) {
    int64_t end = last;
    SelectSlots(routing_, batch.first_token, selection, begin, end, scratch.routing);
    if (scratch.routing.num_slots() > capacity) {
      end = begin + 1;
      while (scratch.routing.expert_starts[Size(end) + 1] <= capacity) ++end;
      SelectSlots(routing_, batch.first_token, selection, begin, end, scratch.routing);
    }
    layer_.ExpertsMiddle(weights, scratch);
    AddSlots(scratch.routing, begin, end, hessians, first);
    for (int64_t expert = begin; expert < end; ++expert) {
      const ExpertHessians& sums = hessians[Size(expert - first)];
      if (sums.input.finite() && sums.middle.finite()) continue;
      const Activation& x = sums.input.finite() ? scratch.g : scratch.h;
      ThrowNonFinite(
          layer,
          fmt::format("{} of expert {}", sums.input.finite() ? "w2's input" : "the input", expert),
          x.data(), x.rows, x.cols, sums.input.finite() ? &scratch.routing.slot_tokens : nullptr,
          batch.first_token);
    }
    begin = end;
  }
}

void LayerStatistics::AddSlots(const Routing& slots, int64_t first, int64_t last,
                               std::vector<ExpertHessians>& hessians, int64_t hessians_first) {
  const LayerScratch& scratch = workspace_->scratch;
  Linalg& linalg = backend_->linalg();
  // Two sums an expert: even indices the inputs, which lie scattered, odd ones the middles.
  const auto add = [&](int64_t index, int thread) {
    const int64_t expert = first + index / 2;
    const int64_t begin = slots.expert_starts[Size(expert)];
    const int64_t rows = slots.expert_starts[Size(expert) + 1] - begin;
    if (rows == 0) return;
    ExpertHessians& sums = hessians[Size(expert - hessians_first)];
    if (index % 2 == 1) {
      sums.middle.Add(scratch.g.row(begin), rows, linalg);
      return;
    }
    const int64_t cols = scratch.h.cols;
    std::vector<float>& inputs = gathered_[Size(thread)];
    inputs.resize(std::max(inputs.size(), Size(rows * cols)));
    for (int64_t row = 0; row < rows; ++row) {
      const float* const from = scratch.h.row(slots.slot_tokens[Size(begin + row)]);
      std::copy(from, from + cols, inputs.data() + row * cols);
    }
    sums.input.Add(inputs.data(), rows, linalg);
  };
  const int64_t count = 2 * (last - first);
  if (count >= 2 * linalg.num_threads() &&
      std::max(config_->hidden_size, config_->intermediate_size) <= kSmallHessian) {
    linalg.ParallelFor(count, add);
  } else {
    for (int64_t index = 0; index < count; ++index) add(index, 0);
  }
}

void LayerStatistics::ThrowNonFinite(int64_t layer, const std::string& where, const float* x,
                                     int64_t rows, int64_t cols,
                                     const std::vector<int32_t>* slot_tokens,
                                     int64_t first_token) const {
  int64_t bad = 0;  // or no value is: their squares overflow
  for (int64_t i = 0; i < rows * cols; ++i) {
    if (std::isfinite(x[i])) continue;
    bad = i / cols;
    break;
  }
  const int64_t token = slot_tokens != nullptr ? (*slot_tokens)[Size(bad)] : bad;
  throw Error(ErrorCode::kInvalidData,
              fmt::format("layer {}: {} is not finite (or its square overflows) at {}; check the "
                          "weights of this layer, or leave that row out of the calibration",
                          layer, where, describe_token_(first_token + token)));
}

}  // namespace nibble
