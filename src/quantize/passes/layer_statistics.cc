#include "quantize/passes/layer_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

namespace nibble {
namespace {

size_t Size(int64_t value) { return static_cast<size_t>(value); }

// The first row of `x` with a value that is not finite. Row 0 also stands for "all values are
// finite, but their squares overflow".
int64_t NonFiniteRow(const Activation& x, Backend& backend) {
  std::vector<float> host(x.rows * x.cols);
  backend.Download(x, host);
  const auto found = std::ranges::find_if(host, [](float value) { return !std::isfinite(value); });
  return found == host.end() ? 0 : (found - host.begin()) / x.cols;
}

class AttentionTaps : public LayerObserver {
 public:
  AttentionTaps(const TokenBatch& batch, Backend& backend, AttentionHessians& hessians)
      : batch_(&batch), backend_(&backend), hessians_(&hessians) {}

  void AttentionInput(const Activation& normed) override {
    Add(normed, hessians_->input, "the input of attention");
  }
  void AttentionOutput(const Activation& attended) override {
    Add(attended, hessians_->output, "the output of attention");
  }

 private:
  void Add(const Activation& x, Hessian& hessian, const char* where) {
    hessian.Add(x, nullptr, 0, x.rows, backend_->algebra());
    if (hessian.finite()) return;
    throw NonFiniteActivations(where, batch_->first_token + NonFiniteRow(x, *backend_));
  }

  const TokenBatch* batch_;
  Backend* backend_;
  AttentionHessians* hessians_;
};

// Sums what experts [begin, end) read on the slots that were chosen for them; hessians[0] is
// expert `begin`'s.
class ExpertTaps : public LayerObserver {
 public:
  ExpertTaps(const TokenBatch& batch, Backend& backend, const RoutingTable& slots, int64_t begin,
             int64_t end, ExpertHessians* hessians)
      : batch_(&batch),
        backend_(&backend),
        slots_(&slots),
        begin_(begin),
        end_(end),
        hessians_(hessians) {}

  void ExpertInput(const Activation& h, const Routing& /*routing*/) override { h_ = &h; }

  void ExpertMiddle(const Activation& g, const Routing& /*routing*/) override {
    AddSlots(g);
    for (int64_t expert = begin_; expert < end_; ++expert) CheckFinite(expert, g);
  }

 private:
  void AddSlots(const Activation& g) {
    struct Sum {
      Hessian* hessian;
      const Activation* x;
      const int32_t* rows;
      int64_t first;
      int64_t count;
      int64_t work() const { return count * hessian->size() * hessian->size(); }
    };
    std::vector<Sum> sums;
    for (int64_t expert = begin_; expert < end_; ++expert) {
      const int64_t start = slots_->expert_starts[expert];
      const int64_t count = slots_->expert_starts[Size(expert) + 1] - start;
      if (count == 0) continue;
      ExpertHessians& hessians = hessians_[expert - begin_];
      sums.push_back({&hessians.input, h_, slots_->slot_tokens.data() + start, 0, count});
      sums.push_back({&hessians.middle, &g, nullptr, start, count});
    }
    // The largest first, for load balance.
    std::ranges::sort(sums, std::greater(), &Sum::work);
    GptqAlgebra& algebra = backend_->algebra();
    const auto add = [&](int64_t index, int) {
      const Sum& sum = sums[index];
      sum.hessian->Add(*sum.x, sum.rows, sum.first, sum.count, algebra);
    };
    const int64_t count = static_cast<int64_t>(sums.size());
    if (count >= 2 * algebra.threads().num_threads() &&
        std::max(h_->cols, g.cols) <= kSmallHessian) {
      algebra.threads().ParallelFor(count, add);
    } else {
      for (int64_t index = 0; index < count; ++index) add(index, 0);
    }
  }

  void CheckFinite(int64_t expert, const Activation& g) const {
    const ExpertHessians& sums = hessians_[expert - begin_];
    if (!sums.input.finite()) {
      throw NonFiniteActivations(fmt::format("the input of expert {}", expert),
                                 batch_->first_token + NonFiniteRow(*h_, *backend_));
    }
    if (!sums.middle.finite()) {
      const int32_t token = slots_->slot_tokens[NonFiniteRow(g, *backend_)];
      throw NonFiniteActivations(fmt::format("w2's input of expert {}", expert),
                                 batch_->first_token + token);
    }
  }

  const TokenBatch* batch_;
  Backend* backend_;
  const RoutingTable* slots_;
  int64_t begin_;
  int64_t end_;
  ExpertHessians* hessians_;
  const Activation* h_ = nullptr;
};

}  // namespace

NonFiniteActivations::NonFiniteActivations(const std::string& where, int64_t token)
    : Error(ErrorCode::kInvalidData,
            fmt::format("{} is not finite (or its square overflows); check the weights of this "
                        "layer, or leave that row out of the calibration",
                        where)),
      token_(token) {}

LayerStatistics::LayerStatistics(ActivationStream& stream)
    : stream_(&stream),
      backend_(&stream.backend()),
      workspace_(&stream.workspace()),
      layer_(stream.backend()) {}

void LayerStatistics::GatherLayer(const LayerSpec& layer, const LayerWeights& weights,
                                  const HiddenStates& hidden, const ExpertSelection& selection,
                                  AttentionHessians& attention, RouterCensus& census,
                                  std::vector<ExpertHessians>& experts) {
  stream_->ForEach(hidden, nullptr, [&](const TokenBatch& batch) {
    AttentionTaps taps(batch, *backend_, attention);
    layer_.Attention(layer, weights, 0, workspace_->x, workspace_->scratch, &taps);
    Route(layer, weights, batch, census);
    AddExperts(layer, weights, batch, selection, 0, experts);
  });
}

void LayerStatistics::GatherAttention(const LayerSpec& layer, const LayerWeights& weights,
                                      const HiddenStates& hidden, AttentionHessians& attention,
                                      RouterCensus& census, HiddenStates& expert_input) {
  stream_->ForEach(hidden, nullptr, [&](const TokenBatch& batch) {
    AttentionTaps taps(batch, *backend_, attention);
    layer_.Attention(layer, weights, 0, workspace_->x, workspace_->scratch, &taps);
    Route(layer, weights, batch, census);
    stream_->StoreExpertInput(batch, expert_input);
  });
}

void LayerStatistics::GatherExperts(const LayerSpec& layer, const LayerWeights& weights,
                                    const HiddenStates& expert_input, const RouterCensus& census,
                                    const ExpertSelection& selection, int64_t first,
                                    std::vector<ExpertHessians>& experts) {
  stream_->ForEachExpertInput(expert_input, [&](const TokenBatch& batch) {
    census.Choices(batch.first_token, batch.batch.num_tokens(), routed_);
    AddExperts(layer, weights, batch, selection, first, experts);
  });
}

void LayerStatistics::Route(const LayerSpec& layer, const LayerWeights& weights,
                            const TokenBatch& batch, RouterCensus& census) {
  layer_.Route(layer, weights, workspace_->x, workspace_->scratch);
  backend_->Download(*workspace_->scratch.routing, routed_);
  census.Add(routed_, batch.first_token);
}

// Runs as many experts at a time as the scratch has room for slots.
void LayerStatistics::AddExperts(const LayerSpec& layer, const LayerWeights& weights,
                                 const TokenBatch& batch, const ExpertSelection& selection,
                                 int64_t first, std::vector<ExpertHessians>& experts) {
  LayerScratch& scratch = workspace_->scratch;
  const int64_t last = first + static_cast<int64_t>(experts.size());
  const int64_t room = scratch.max_slots(layer);
  for (int64_t begin = first; begin < last;) {
    int64_t end = last;
    SelectSlots(routed_, batch.first_token, selection, begin, end, slots_);
    if (slots_.num_slots() > room) {
      end = begin + 1;
      while (slots_.expert_starts[Size(end) + 1] <= room) ++end;
      SelectSlots(routed_, batch.first_token, selection, begin, end, slots_);
    }
    backend_->Upload(slots_, *scratch.routing);
    ExpertTaps taps(batch, *backend_, slots_, begin, end, experts.data() + (begin - first));
    layer_.ExpertsMiddle(weights, scratch, &taps);
    begin = end;
  }
}

}  // namespace nibble
