#include "quantize/passes/probe.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "backend/host/log_softmax.h"
#include "base/check.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr size_t kMaxCompared = 256;  // positions whose logits are compared
constexpr size_t kLogitRows = 64;     // computed at a time, on the backend and then on the host

}  // namespace

double ProbeScore::perplexity() const {
  return tokens == 0 ? 0 : std::exp(nll / static_cast<double>(tokens));
}

int64_t Probe::ActivationBytes(const ModelSpec& spec, int64_t tokens) {
  return 2 * HiddenStates::SizeBytes(tokens, spec.hidden_size);
}

int64_t Probe::LogitBytes(const ModelSpec& spec, int64_t tokens) {
  constexpr int64_t kRows = kMaxCompared + 2 * kLogitRows;
  return tokens == 0 ? 0 : kRows * spec.vocab_size * int64_t{sizeof(float)};
}

Probe::Probe(const ModelSpec& spec, const TokenBatches& batches, Backend& backend,
             Workspace& workspace, const OuterWeights& outer)
    : spec_(&spec),
      batches_(&batches),
      backend_(&backend),
      workspace_(&workspace),
      outer_(&outer),
      layer_(backend),
      stream_(batches, backend, workspace),
      hidden_(HiddenStates::InMemory(batches.num_tokens, spec.hidden_size)),
      expert_input_(HiddenStates::InMemory(batches.num_tokens, spec.hidden_size)),
      logits_(backend.MakeLogitRows(kLogitRows, spec.vocab_size)) {
  NIBBLE_CHECK(batches.batches.size() <= 1);
}

void Probe::Embed() { stream_.Embed(*outer_->embedding, hidden_); }

void Probe::RunAttention(const LayerSpec& layer, const LayerWeights& weights) {
  LayerScratch& scratch = workspace_->scratch;
  stream_.ForEach(hidden_, &hidden_, [&](const TokenBatch& batch) {
    layer_.Attention(layer, weights, 0, workspace_->x, scratch);
    layer_.Route(layer, weights, workspace_->x, scratch);
    backend_->Download(*scratch.routing, routing_);
    stream_.StoreExpertInput(batch, expert_input_);
  });
}

void Probe::RunExperts(const LayerWeights& weights, int64_t first, int64_t last) {
  LayerScratch& scratch = workspace_->scratch;
  stream_.ForEach(hidden_, &hidden_, [&](const TokenBatch& batch) {
    stream_.LoadExpertInput(batch, expert_input_);
    routing_.GroupByExpert(first, last);
    backend_->Upload(routing_, *scratch.routing);
    layer_.Experts(weights, workspace_->x, scratch);
  });
}

void Probe::ForEachLogits(const HiddenStates& hidden, std::span<const int32_t> rows,
                          const std::function<void(size_t, const LogitRows&)>& visit) {
  stream_.ForEach(hidden, nullptr, [&](const TokenBatch&) {
    for (size_t first = 0; first < rows.size(); first += kLogitRows) {
      backend_->Head(workspace_->x, outer_->head_weights(spec_->norm_eps),
                     rows.subspan(first, std::min(kLogitRows, rows.size() - first)), *logits_);
      visit(first, *logits_);
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
  const size_t vocab = static_cast<size_t>(spec_->vocab_size);
  std::vector<float> original(num_rows * vocab);
  const auto rows_of = [&](size_t first, const LogitRows& logits) {
    return std::pair{first * vocab, static_cast<size_t>(logits.num_rows()) * vocab};
  };
  ForEachLogits(hidden_, rows, [&](size_t first, const LogitRows& logits) {
    const auto [begin, size] = rows_of(first, logits);
    logits.Read(0, std::span(original).subspan(begin, size));
  });
  std::vector<float> of_quantized(kLogitRows * vocab);
  std::vector<RowComparison> comparisons(num_rows);
  ForEachLogits(quantized, rows, [&](size_t first, const LogitRows& logits) {
    const auto [begin, size] = rows_of(first, logits);
    logits.Read(0, std::span(of_quantized).first(size));
    backend_->threads().ParallelFor(logits.num_rows(), [&](int64_t row, int /*thread*/) {
      const size_t i = static_cast<size_t>(row);
      comparisons[first + i] =
          CompareRows(std::span(original).subspan((first + i) * vocab, vocab),
                      std::span(of_quantized).subspan(i * vocab, vocab), /*token=*/0);
    });
  });
  double kl_sum = 0;
  int64_t agreements = 0;
  for (const RowComparison& comparison : comparisons) {
    kl_sum += comparison.kl;
    agreements += comparison.same_top;
  }
  const double positions = static_cast<double>(num_rows);
  result.positions = static_cast<int64_t>(num_rows);
  result.kl = kl_sum / positions;
  result.top1_agreement = static_cast<double>(agreements) / positions;

  const size_t size = static_cast<size_t>(num_tokens() * spec_->hidden_size);
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
    for (int32_t row = batch.starts[s]; row + 1 < batch.starts[static_cast<size_t>(s) + 1]; ++row) {
      rows.push_back(row);
    }
  }
  std::vector<TokenScore> scores(rows.size());
  std::vector<int32_t> next;
  for (const int32_t row : rows) next.push_back(batch.tokens[static_cast<size_t>(row) + 1]);
  ForEachLogits(hidden, rows, [&](size_t first, const LogitRows& logits) {
    const size_t count = static_cast<size_t>(logits.num_rows());
    logits.Score(std::span(next).subspan(first, count), std::span(scores).subspan(first, count));
  });
  for (const TokenScore& token : scores) score.nll -= token.log_probability;
  score.tokens = static_cast<int64_t>(rows.size());
  return score;
}

}  // namespace nibble
