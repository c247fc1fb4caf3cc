#include "quantize/passes/probe.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/check.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr size_t kMaxCompared = 256;  // positions whose logits are compared
constexpr size_t kLogitRows = 64;     // computed at a time

double LogSumExp(std::span<const float> logits) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  float sum = 0;  // at most as many terms as the vocabulary has, each at most 1
  double total = 0;
  size_t in_sum = 0;
  for (const float logit : logits) {
    sum += std::exp(logit - highest);
    if (++in_sum == 256) {
      total += static_cast<double>(std::exchange(sum, 0.0f));
      in_sum = 0;
    }
  }
  return static_cast<double>(highest) + std::log(total + static_cast<double>(sum));
}

size_t ArgMax(std::span<const float> logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

double ProbeScore::perplexity() const {
  return tokens == 0 ? 0 : std::exp(nll / static_cast<double>(tokens));
}

Probe::Probe(const ModelConfig& config, const TokenBatches& batches, Backend& backend,
             Workspace& workspace, const OuterWeights& outer)
    : config_(&config),
      batches_(&batches),
      backend_(&backend),
      workspace_(&workspace),
      outer_(&outer),
      layer_(config, backend),
      stream_(batches, backend, workspace),
      hidden_(HiddenStates::InMemory(batches.num_tokens, config.hidden_size)),
      middle_(HiddenStates::InMemory(batches.num_tokens, config.hidden_size)) {
  NIBBLE_CHECK(batches.batches.size() <= 1);
}

void Probe::Embed() { stream_.Embed(*outer_->embedding, hidden_); }

void Probe::RunAttention(const LayerWeights& weights) {
  stream_.ForEach(hidden_, &middle_, [&](const TokenBatch&) {
    layer_.Attention(weights, workspace_->kv.layer(0), workspace_->x, workspace_->scratch);
  });
  stream_.ForEach(middle_, &hidden_, [](const TokenBatch&) {});
}

void Probe::RunExperts(const LayerWeights& weights, int64_t first, int64_t last) {
  LayerScratch& scratch = workspace_->scratch;
  stream_.ForEach(middle_, &hidden_, [&](const TokenBatch& batch) {
    layer_.Route(weights, workspace_->x, scratch);
    scratch.routing.GroupByExpert(first, last);
    stream_.Upload(hidden_, batch.first_token);  // what experts before `first` have added to
    layer_.Experts(weights, workspace_->x, scratch);
  });
}

void Probe::ForEachLogits(const HiddenStates& hidden, std::span<const int32_t> rows,
                          const std::function<void(size_t, std::span<const float>)>& visit) {
  const HeadWeights head{.norm = outer_->final_norm.get(),
                         .head = outer_->head.get(),
                         .norm_eps = static_cast<float>(config_->rms_norm_eps)};
  const size_t vocab = static_cast<size_t>(config_->vocab_size);
  std::vector<float> logits(kLogitRows * vocab);
  stream_.ForEach(hidden, nullptr, [&](const TokenBatch&) {
    for (size_t first = 0; first < rows.size(); first += kLogitRows) {
      const size_t count = std::min(kLogitRows, rows.size() - first);
      const std::span<float> out = std::span(logits).first(count * vocab);
      backend_->Logits(workspace_->x, head, rows.subspan(first, count), out);
      for (size_t i = 0; i < count; ++i) visit(first + i, out.subspan(i * vocab, vocab));
    }
  });
}

Divergence Probe::Compare(const HiddenStates& quantized) {
  Divergence result;
  if (empty()) return result;
  const size_t num_rows = std::min(kMaxCompared, static_cast<size_t>(num_tokens()));
  std::vector<int32_t> rows;
  for (size_t i = 0; i < num_rows; ++i) {
    rows.push_back(static_cast<int32_t>(i * static_cast<size_t>(num_tokens()) / num_rows));
  }
  const size_t vocab = static_cast<size_t>(config_->vocab_size);
  std::vector<float> original(num_rows * vocab);
  ForEachLogits(hidden_, rows, [&](size_t i, std::span<const float> logits) {
    std::copy(logits.begin(), logits.end(), original.begin() + static_cast<int64_t>(i * vocab));
  });
  double kl_sum = 0;
  int64_t agreements = 0;
  ForEachLogits(quantized, rows, [&](size_t i, std::span<const float> q) {
    const std::span<const float> p = std::span(original).subspan(i * vocab, vocab);
    const double p_norm = LogSumExp(p);
    const double q_norm = LogSumExp(q);
    double kl = 0;
    for (size_t v = 0; v < vocab; ++v) {
      const float probability = std::exp(static_cast<float>(static_cast<double>(p[v]) - p_norm));
      kl += static_cast<double>(probability * (p[v] - q[v]));
    }
    kl_sum += kl + q_norm - p_norm;
    agreements += ArgMax(p) == ArgMax(q);
  });
  const double positions = static_cast<double>(num_rows);
  result.positions = static_cast<int64_t>(num_rows);
  result.kl = kl_sum / positions;
  result.top1_agreement = static_cast<double>(agreements) / positions;

  const size_t size = static_cast<size_t>(num_tokens() * config_->hidden_size);
  std::vector<float> a(size), b(size);
  hidden_.Load(0, a);
  quantized.Load(0, b);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < size; ++i) {
    const double d = static_cast<double>(b[i] - a[i]);
    difference += d * d;
    norm += static_cast<double>(a[i]) * static_cast<double>(a[i]);
  }
  result.activation_error = norm > 0 ? difference / norm : 0;
  if (!std::isfinite(result.kl) || !std::isfinite(result.activation_error)) {
    throw Error(
        ErrorCode::kInvalidData,
        "the logits of the calibration tokens are not finite; check the weights of the last "
        "layer, the final norm and the head");
  }
  return result;
}

ProbeScore Probe::Score(const HiddenStates& hidden) {
  ProbeScore score;
  if (empty()) return score;
  const Batch& batch = batches_->batches.front().batch;
  std::vector<int32_t> rows;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    for (int32_t row = batch.starts[static_cast<size_t>(s)];
         row + 1 < batch.starts[static_cast<size_t>(s) + 1]; ++row) {
      rows.push_back(row);
    }
  }
  ForEachLogits(hidden, rows, [&](size_t i, std::span<const float> logits) {
    const int32_t next = batch.tokens[static_cast<size_t>(rows[i]) + 1];
    score.nll += LogSumExp(logits) - static_cast<double>(logits[static_cast<size_t>(next)]);
  });
  score.tokens = static_cast<int64_t>(rows.size());
  return score;
}

}  // namespace nibble
