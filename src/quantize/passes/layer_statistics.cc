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
  AttentionTaps(AttentionHessians& hessians, Linalg& linalg)
      : hessians_(&hessians), linalg_(&linalg) {}

  void AttentionInput(const Activation& normed) override {
    hessians_->input.Add(normed.data(), nullptr, normed.rows, *linalg_);
  }
  void AttentionOutput(const Activation& attended) override {
    hessians_->output.Add(attended.data(), nullptr, attended.rows, *linalg_);
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
      layer_(config, backend) {}

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
  struct Sum {
    Hessian* hessian;
    const float* x;
    const int32_t* rows;
    int64_t count;
    int64_t work() const { return count * hessian->size() * hessian->size(); }
  };
  std::vector<Sum> sums;
  for (int64_t expert = first; expert < last; ++expert) {
    const int64_t begin = slots.expert_starts[Size(expert)];
    const int64_t count = slots.expert_starts[Size(expert) + 1] - begin;
    if (count == 0) continue;
    ExpertHessians& of_expert = hessians[Size(expert - hessians_first)];
    sums.push_back({&of_expert.input, scratch.h.data(), slots.slot_tokens.data() + begin, count});
    sums.push_back({&of_expert.middle, scratch.g.row(begin), nullptr, count});
  }
  // The largest first: no thread should start on one when the others are done.
  std::ranges::sort(sums, std::greater(), &Sum::work);
  const auto add = [&](int64_t index, int) {
    const Sum& sum = sums[Size(index)];
    sum.hessian->Add(sum.x, sum.rows, sum.count, linalg);
  };
  const int64_t count = static_cast<int64_t>(sums.size());
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
