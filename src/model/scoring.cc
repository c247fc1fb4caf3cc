#include "model/scoring.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/host/log_softmax.h"
#include "base/interrupt.h"
#include "model/batch_builder.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// Tokens [first, first + count) of a sequence, whose KV pages start at first_block.
struct Piece {
  size_t sequence = 0;
  int64_t first = 0;
  int64_t count = 0;
  int64_t first_block = 0;
  int64_t num_blocks = 0;
};

struct Plan {
  std::vector<std::vector<Piece>> steps;
  int64_t num_blocks = 0;
};

// Cuts sequences of the given lengths into steps of at most max_tokens: whole ones are packed while
// they fit, a longer one starts a step and goes on in the next. Only a sequence that goes on keeps
// its blocks from one step to the next, so blocks are numbered anew for the others.
Plan PlanSteps(std::span<const int64_t> lengths, int64_t max_tokens) {
  Plan plan;
  std::vector<Piece> step;
  int64_t room = max_tokens;
  int64_t next_block = 0;
  const auto close_step = [&] {
    if (!step.empty()) plan.steps.push_back(std::exchange(step, {}));
    room = max_tokens;
  };
  for (size_t i = 0; i < lengths.size(); ++i) {
    const int64_t length = lengths[i];
    if (length > room) close_step();
    if (step.empty()) next_block = 0;
    const int64_t first_block = next_block;
    next_block += BlocksFor(length, kKvBlockSize);
    plan.num_blocks = std::max(plan.num_blocks, next_block);
    for (int64_t done = 0; done < length;) {
      if (room == 0) close_step();
      const int64_t count = std::min(length - done, room);
      step.push_back({i, done, count, first_block, next_block - first_block});
      done += count;
      room -= count;
    }
  }
  close_step();
  return plan;
}

// One predicted token: token `index` of a sequence.
struct Target {
  size_t sequence = 0;
  int64_t index = 0;
};

// A scoring run over many sequences: the steps, and what each logit row predicts.
class ScoringRun {
 public:
  ScoringRun(const ModelSpec& spec, std::span<const ScoredSequence> sequences, int64_t max_tokens)
      : sequences_(sequences) {
    std::vector<int64_t> lengths;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int64_t size = static_cast<int64_t>(sequences[i].tokens.size());
      if (size == 0) {
        throw Error(ErrorCode::kInvalidArgument, fmt::format("sequence {} has no tokens", i));
      }
      if (size > spec.max_positions) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("sequence {} has {} tokens, the model has {} positions; cut it", i,
                                size, spec.max_positions));
      }
      lengths.push_back(size - 1);  // the last token predicts nothing and is not run
    }
    plan_ = PlanSteps(lengths, max_tokens);
  }

  int64_t num_blocks() const { return std::max<int64_t>(plan_.num_blocks, 1); }

  // Calls body(batch, targets) for each step, targets[i] being what batch.logit_rows[i] predicts.
  template <typename Body>
  void ForEachStep(const ScoringProgress& progress, const Body& body) const {
    std::vector<int32_t> blocks;
    std::vector<Target> targets;
    for (const std::vector<Piece>& step : plan_.steps) {
      ThrowIfInterrupted();
      BatchBuilder builder;
      targets.clear();
      for (const Piece& piece : step) {
        blocks.resize(piece.num_blocks);
        std::iota(blocks.begin(), blocks.end(), static_cast<int32_t>(piece.first_block));
        const int64_t first_logit =
            std::clamp<int64_t>(FirstScored(piece.sequence) - 1 - piece.first, 0, piece.count);
        builder.Add(std::span(sequences_[piece.sequence].tokens).subspan(piece.first, piece.count),
                    piece.first, blocks, first_logit);
        for (int64_t i = first_logit; i < piece.count; ++i) {
          targets.push_back({piece.sequence, piece.first + i + 1});
        }
      }
      const Batch batch = builder.Take();
      body(batch, std::span<const Target>(targets));
      if (progress) progress(batch.num_tokens());
    }
  }

  int64_t FirstScored(size_t sequence) const {
    return std::max<int64_t>(sequences_[sequence].first_scored, 1);
  }

  int32_t TokenOf(const Target& target) const {
    return sequences_[target.sequence].tokens[target.index];
  }

 private:
  std::span<const ScoredSequence> sequences_;
  Plan plan_;
};

// Σ values, and the standard error of their mean.
struct Mean {
  double mean = 0;
  double standard_error = 0;
};

template <typename Values>
Mean MeanOf(const Values& values) {
  const double count = static_cast<double>(values.size());
  if (values.empty()) return {};
  double sum = 0;
  for (const double value : values) sum += value;
  const double mean = sum / count;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, values.size() < 2 ? 0.0 : std::sqrt(squares / (count - 1) / count)};
}

// The value that a share of all values stays at or below.
double Quantile(std::vector<double>& values, double share) {
  if (values.empty()) return 0;
  const size_t index =
      static_cast<size_t>(std::floor(share * static_cast<double>(values.size() - 1)));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(index),
                   values.end());
  return values[index];
}

Comparison ComparisonOf(const std::vector<RowComparison>& tokens) {
  Comparison result;
  result.tokens = static_cast<int64_t>(tokens.size());
  std::vector<double> kl;
  std::vector<double> differences;
  std::vector<double> agreements;
  for (const RowComparison& token : tokens) {
    result.baseline_nll -= token.baseline_log_probability;
    result.nll -= token.log_probability;
    kl.push_back(token.kl);
    differences.push_back(token.baseline_log_probability - token.log_probability);
    agreements.push_back(token.same_top ? 1.0 : 0.0);
  }
  const Mean mean_kl = MeanOf(kl);
  const Mean agreement = MeanOf(agreements);
  const Mean log_ratio = MeanOf(differences);
  result.mean_kl = mean_kl.mean;
  result.kl_standard_error = mean_kl.standard_error;
  result.top1_agreement = agreement.mean;
  result.top1_standard_error = agreement.standard_error;
  result.log_ratio = log_ratio.mean;
  result.log_ratio_standard_error = log_ratio.standard_error;
  result.median_kl = Quantile(kl, 0.5);
  result.kl_99 = Quantile(kl, 0.99);
  result.max_kl = Quantile(kl, 1.0);
  return result;
}

}  // namespace

std::vector<std::vector<TokenPrediction>> ScoreSequences(Model& model,
                                                         std::span<const ScoredSequence> sequences,
                                                         const ScoringProgress& progress,
                                                         DType kv_dtype) {
  const ScoringRun run(model.spec(), sequences, model.max_tokens());
  std::vector<std::vector<TokenPrediction>> predictions(sequences.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    const int64_t count = static_cast<int64_t>(sequences[i].tokens.size()) - run.FirstScored(i);
    predictions[i].resize(std::max<int64_t>(count, 0));
  }
  const auto kv = model.MakeKvPages(run.num_blocks(), kv_dtype);
  std::vector<int32_t> tokens;
  std::vector<TokenScore> scores;
  run.ForEachStep(progress, [&](const Batch& batch, std::span<const Target> targets) {
    tokens.clear();
    for (const Target& target : targets) tokens.push_back(run.TokenOf(target));
    scores.resize(targets.size());
    model.Forward(batch, *kv, [&](int64_t first, LogitRows& rows) {
      const size_t begin = static_cast<size_t>(first);
      const size_t count = static_cast<size_t>(rows.num_rows());
      rows.Score(std::span(tokens).subspan(begin, count), std::span(scores).subspan(begin, count));
    });
    if (!std::ranges::all_of(scores, &TokenScore::finite))
      throw model.Explain(batch, *kv, batch.logit_rows);
    for (size_t i = 0; i < targets.size(); ++i) {
      const auto& [sequence, index] = targets[i];
      predictions[sequence][index - run.FirstScored(sequence)] = {scores[i].log_probability,
                                                                  scores[i].best == tokens[i]};
    }
  });
  return predictions;
}

Comparison CompareSequences(Model& baseline, Model& model,
                            std::span<const ScoredSequence> sequences,
                            const ScoringProgress& progress, DType kv_dtype) {
  const int64_t vocab_size = model.spec().vocab_size;
  if (baseline.spec().vocab_size != vocab_size) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("the baseline has a vocabulary of {}, the model one of {}; compare models "
                    "with the same tokenizer",
                    baseline.spec().vocab_size, vocab_size));
  }
  const size_t vocab = static_cast<size_t>(vocab_size);
  const ScoringRun run(model.spec(), sequences,
                       std::min(baseline.max_tokens(), model.max_tokens()));
  const auto baseline_kv = baseline.MakeKvPages(run.num_blocks(), DType::kF32);
  const auto model_kv = model.MakeKvPages(run.num_blocks(), kv_dtype);
  std::vector<float> baseline_logits;  // of one step
  std::vector<float> logits;           // of some of its rows
  std::vector<RowComparison> tokens;
  run.ForEachStep(progress, [&](const Batch& batch, std::span<const Target> targets) {
    baseline.Forward(batch, *baseline_kv, baseline_logits);
    const size_t before = tokens.size();
    tokens.resize(before + targets.size());
    model.Forward(batch, *model_kv, [&](int64_t first, LogitRows& rows) {
      logits.resize(static_cast<size_t>(rows.num_rows()) * vocab);
      rows.Read(0, logits);
      model.backend().threads().ParallelFor(rows.num_rows(), [&](int64_t row, int /*thread*/) {
        const size_t i = static_cast<size_t>(row);
        const size_t index = static_cast<size_t>(first + row);
        tokens[before + index] =
            CompareRows(std::span(baseline_logits).subspan(index * vocab, vocab),
                        std::span(logits).subspan(i * vocab, vocab), run.TokenOf(targets[index]));
      });
    });
    for (size_t i = before; i < tokens.size(); ++i) {
      if (tokens[i].finite()) continue;
      const bool of_baseline = !std::isfinite(tokens[i].baseline_log_probability);
      throw of_baseline ? baseline.Explain(batch, *baseline_kv, batch.logit_rows)
                        : model.Explain(batch, *model_kv, batch.logit_rows);
    }
  });
  return ComparisonOf(tokens);
}

void SequenceLogits(Model& model, std::span<const int32_t> sequence,
                    const SequenceLogitVisitor& visit, DType kv_dtype) {
  const int64_t length = static_cast<int64_t>(sequence.size());
  std::vector<int32_t> blocks(BlocksFor(length));
  std::iota(blocks.begin(), blocks.end(), 0);
  const auto kv = model.MakeKvPages(static_cast<int64_t>(blocks.size()), kv_dtype);
  std::vector<float> logits;
  for (int64_t first = 0; first < length; first += model.max_tokens()) {
    ThrowIfInterrupted();
    const int64_t count = std::min(model.max_tokens(), length - first);
    BatchBuilder builder;
    builder.Add(sequence.subspan(first, count), first, blocks, 0);
    const Batch batch = builder.Take();
    bool finite = true;
    model.Forward(batch, *kv, [&](int64_t row, LogitRows& rows) {
      logits.resize(rows.num_rows() * rows.vocab_size());
      rows.Read(0, logits);
      finite = finite && std::ranges::all_of(logits, [](float x) { return std::isfinite(x); });
      if (finite) visit(first + row, logits);
    });
    if (!finite) throw model.Explain(batch, *kv, batch.logit_rows);
  }
}

double Perplexity::perplexity() const {
  return tokens == 0 ? 0 : std::exp(nll / static_cast<double>(tokens));
}

Perplexity PerplexityOf(std::span<const std::vector<TokenPrediction>> predictions) {
  std::vector<double> nlls;
  for (const auto& sequence : predictions) {
    for (const TokenPrediction& token : sequence) nlls.push_back(-token.log_probability);
  }
  Perplexity result;
  result.tokens = static_cast<int64_t>(nlls.size());
  result.nll = std::accumulate(nlls.begin(), nlls.end(), 0.0);
  result.standard_error = result.perplexity() * MeanOf(nlls).standard_error;
  return result;
}

std::vector<ScoredSequence> MakeWindows(std::span<const int32_t> ids, int32_t bos, int64_t window,
                                        int64_t stride) {
  const bool has_bos = bos >= 0;
  const int64_t capacity = has_bos ? window - 1 : window;  // ids a window holds
  const int64_t most_new = window - 1;                     // ids a window can predict
  if (most_new < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("`window`: expected at least 2 tokens, found {}", window));
  }
  if (stride < 0 || stride > most_new) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("`stride`: expected 1 to {} (window - 1), found {}", most_new, stride));
  }
  const int64_t step = stride == 0 ? most_new : stride;
  const int64_t count = static_cast<int64_t>(ids.size());
  int64_t predicted = has_bos ? 0 : 1;  // ids [0, predicted) are done
  if (count <= predicted) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the text has {} tokens, too few to predict any", count));
  }

  std::vector<ScoredSequence> windows;
  while (predicted < count) {
    // The first window predicts all it can; each later one `step` ids behind a full context.
    const int64_t reach = predicted + (windows.empty() ? most_new : step);
    const int64_t end = std::min(reach, count);
    const int64_t begin = std::max<int64_t>(reach - capacity, 0);
    ScoredSequence& result = windows.emplace_back();
    std::vector<int32_t>& tokens = result.tokens;
    if (has_bos) tokens.push_back(bos);
    tokens.insert(tokens.end(), ids.begin() + begin, ids.begin() + end);
    result.first_scored = static_cast<int64_t>(tokens.size()) - (end - predicted);
    predicted = end;
  }
  return windows;
}

}  // namespace nibble
