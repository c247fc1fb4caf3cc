#include "engine/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/random.h"
#include "engine/scheduler.h"
#include "model/batch_builder.h"
#include "nibble/error.h"
#include "text/detokenizer.h"

namespace nibble {
namespace {

int64_t MaxOutput(const GenerationRequest& request, const ModelSpec& spec) {
  return std::min(request.params.max_tokens,
                  spec.max_positions - static_cast<int64_t>(request.prompt.size()));
}

uint64_t SeedOf(const SamplingParams& params, uint64_t run_seed, size_t index) {
  if (params.seed) return static_cast<uint64_t>(*params.seed);
  // UniformDraw() leaves counter words 2 and 3 at zero; word 2 = 1 gives seeds a stream of their
  // own.
  const std::array<uint32_t, 4> block = Philox4x32(
      {static_cast<uint32_t>(run_seed), static_cast<uint32_t>(run_seed >> 32)},
      {static_cast<uint32_t>(index), static_cast<uint32_t>(uint64_t{index} >> 32), 1, 0});
  return uint64_t{block[0]} << 32 | block[1];
}

// Rejects requests that could never run.
void CheckRequests(const Model& model, const Tokenizer* tokenizer,
                   std::span<const GenerationRequest> requests, const GeneratorOptions& options) {
  const ModelSpec& spec = model.spec();
  for (const int32_t id : options.end_ids) {
    if (id >= 0 && id < spec.vocab_size) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("`end_ids`: token id {} is outside the model's vocabulary of {}", id,
                            spec.vocab_size));
  }
  const auto refuse = [](size_t index, const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("prompt {}: {}", index, why));
  };
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto& [prompt, params] = requests[i];
    CheckSamplingParams(params, spec.vocab_size);
    if (tokenizer == nullptr && !params.stop.empty()) {
      throw Error(ErrorCode::kInvalidArgument, "`stop`: stop strings need a tokenizer");
    }
    if (prompt.empty()) {
      refuse(i, "it has no tokens; give some text or a tokenizer that adds BOS");
    }
    if (static_cast<int64_t>(prompt.size()) >= spec.max_positions) {
      refuse(i, fmt::format("{} tokens leave no room for an answer: the model takes {}",
                            prompt.size(), spec.max_positions));
    }
    for (const int32_t id : prompt) {
      if (id >= 0 && id < spec.vocab_size) continue;
      refuse(i, fmt::format("token id {} is outside the model's vocabulary of {}", id,
                            spec.vocab_size));
    }
  }
}

// A special token is no part of the text, where a stop string is looked for: it stops by its id.
SamplingParams WithStopIds(SamplingParams params, const Tokenizer& tokenizer, int64_t vocab_size) {
  for (const std::string& stop : params.stop) {
    const std::optional<int32_t> id = tokenizer.TokenToId(stop);
    if (id && *id < vocab_size && tokenizer.IsSpecial(*id)) params.stop_token_ids.push_back(*id);
  }
  return params;
}

// How many KV blocks the pool gets.
int64_t ChooseNumBlocks(const Model& model, std::span<const GenerationRequest> requests,
                        const GeneratorOptions& options) {
  const ModelSpec& spec = model.spec();
  std::vector<int64_t> needed;
  for (const GenerationRequest& request : requests) {
    needed.push_back(Scheduler::BlocksNeeded(static_cast<int64_t>(request.prompt.size()),
                                             MaxOutput(request, spec), options.block_size));
  }
  std::sort(needed.begin(), needed.end(), std::greater<>());
  const int64_t largest = needed.front();
  const size_t at_once = std::min(needed.size(), static_cast<size_t>(options.max_sequences));
  const int64_t wanted = std::accumulate(
      needed.begin(), needed.begin() + static_cast<std::ptrdiff_t>(at_once), int64_t{0});

  const int64_t block_bytes =
      model.backend().KvBlockBytes(spec.Kv(options.kv_dtype, options.block_size));
  const int64_t memory_bytes = model.backend().FreeBytes() / 10 * 9;
  const int64_t affordable = memory_bytes / block_bytes;
  const int64_t chosen = options.num_blocks > 0 ? options.num_blocks : std::min(wanted, affordable);
  if (chosen < largest) {
    throw Error(ErrorCode::kResourceExhausted,
                fmt::format("KV cache: one request alone may need {} blocks of {} tokens ({}), but "
                            "there is room for {} ({}); lower `max_tokens` or shorten the prompt",
                            largest, options.block_size, FormatBytes(largest * block_bytes), chosen,
                            FormatBytes(chosen * block_bytes)));
  }
  return chosen;
}

class Run {
 public:
  Run(Model& model, const Tokenizer* tokenizer, std::span<const GenerationRequest> requests,
      const GeneratorOptions& options, const GenerationCallback& callback)
      : model_(model),
        requests_(requests),
        options_(options),
        callback_(callback),
        pool_(ChooseNumBlocks(model, requests, options)),
        kv_(model.MakeKvPages(pool_.num_blocks(), options.kv_dtype, options.block_size)),
        scheduler_({.max_step_tokens = std::min(options.max_batch_tokens, model.max_tokens()),
                    .max_running = options.max_sequences,
                    .block_size = options.block_size},
                   pool_),
        results_(requests.size()),
        detokenizers_(requests.size()) {
    for (size_t i = 0; i < requests.size(); ++i) {
      params_.push_back(requests[i].params);
      if (tokenizer != nullptr) {
        params_[i] = WithStopIds(params_[i], *tokenizer, model.spec().vocab_size);
        detokenizers_[i].emplace(*tokenizer, params_[i].stop);
      }
      scheduler_.Add(static_cast<int64_t>(i), requests[i].prompt);
    }
  }

  std::vector<Generation> Finish() {
    while (!scheduler_.idle()) {
      ThrowIfInterrupted();
      Step();
    }
    NIBBLE_CHECK(pool_.num_free() == pool_.num_blocks());
    return std::move(results_);
  }

 private:
  void Step() {
    BatchBuilder builder;
    yielding_.clear();
    for (const Chunk& chunk : scheduler_.Plan()) {
      const Sequence& sequence = scheduler_.sequence(chunk.sequence);
      const auto tokens = std::span(sequence.tokens).subspan(chunk.first, chunk.count);
      builder.Add(tokens, chunk.first, sequence.blocks,
                  chunk.wants_token ? chunk.count - 1 : chunk.count);
      if (chunk.wants_token) yielding_.push_back(static_cast<size_t>(chunk.sequence));
    }
    const Batch batch = builder.Take();
    rows_.clear();
    for (const size_t request : yielding_) rows_.push_back(SamplingRowOf(request));
    sampled_.resize(yielding_.size());
    model_.Forward(batch, *kv_, [&](int64_t first, LogitRows& logits) {
      const size_t begin = static_cast<size_t>(first);
      const size_t count = static_cast<size_t>(logits.num_rows());
      logits.Sample(std::span(rows_).subspan(begin, count),
                    std::span(sampled_).subspan(begin, count));
    });
    tokens_.clear();
    for (const Sampled& sampled : sampled_) tokens_.push_back(sampled.token);
    scheduler_.Commit(tokens_);
    for (size_t i = 0; i < yielding_.size(); ++i) {
      if (sampled_[i].finite()) {
        Accept(yielding_[i], sampled_[i]);
      } else {
        Fail(yielding_[i], model_.Explain(batch, *kv_, {&batch.logit_rows[i], 1}).what());
      }
    }
  }

  std::span<const int32_t> EndIds(size_t request) const {
    return params_[request].ignore_eos ? std::span<const int32_t>() : std::span(options_.end_ids);
  }

  SamplingRow SamplingRowOf(size_t request) const {
    const SamplingParams& params = params_[request];
    return {.params = &params,
            .prompt = requests_[request].prompt,
            .output = results_[request].tokens,
            .end_ids = EndIds(request),
            .seed = SeedOf(params, options_.seed, request)};
  }

  void Fail(size_t request, const std::string& reason) {
    Generation& result = results_[request];
    std::string delta;
    if (detokenizers_[request]) delta = detokenizers_[request]->Finish();
    result.text += delta;
    result.finish = FinishReason::kError;
    result.error = reason;
    scheduler_.Remove(static_cast<int64_t>(request));
    if (callback_) callback_({.request = request, .token = -1, .delta = delta, .finished = true});
  }

  // Records a token, detokenizes it and decides whether the request ends with it.
  void Accept(size_t request, const Sampled& sampled) {
    const SamplingParams& params = params_[request];
    Generation& result = results_[request];
    result.tokens.push_back(sampled.token);
    result.log_probabilities.push_back(sampled.log_probability);

    const auto contains = [&](std::span<const int32_t> ids) {
      return std::find(ids.begin(), ids.end(), sampled.token) != ids.end();
    };
    const bool stop_id = contains(EndIds(request)) || contains(params.stop_token_ids);
    const bool full =
        static_cast<int64_t>(result.tokens.size()) >= MaxOutput(requests_[request], model_.spec());
    std::string delta;
    bool stop_string = false;
    if (std::optional<Detokenizer>& detokenizer = detokenizers_[request]) {
      if (!stop_id) delta = detokenizer->Add(sampled.token);
      if (stop_id || full) delta += detokenizer->Finish();
      stop_string = detokenizer->stopped();
    }
    result.text += delta;
    const bool finished = stop_id || stop_string || full;
    if (finished) {
      result.finish = stop_id || stop_string ? FinishReason::kStop : FinishReason::kLength;
      scheduler_.Remove(static_cast<int64_t>(request));
    }
    if (callback_) callback_({request, sampled.token, delta, finished});
  }

  Model& model_;
  std::span<const GenerationRequest> requests_;
  const GeneratorOptions& options_;
  const GenerationCallback& callback_;
  BlockPool pool_;
  std::unique_ptr<KvPages> kv_;
  Scheduler scheduler_;
  std::vector<SamplingParams> params_;  // of the requests, with the ids that stop strings stand for
  std::vector<Generation> results_;
  std::vector<std::optional<Detokenizer>> detokenizers_;

  // Of one step: the requests that get a token, the inputs of the choice, the sampled tokens.
  std::vector<size_t> yielding_;
  std::vector<SamplingRow> rows_;
  std::vector<Sampled> sampled_;
  std::vector<int32_t> tokens_;
};

}  // namespace

std::vector<Generation> Generate(Model& model, const Tokenizer* tokenizer,
                                 std::span<const GenerationRequest> requests,
                                 const GeneratorOptions& options,
                                 const GenerationCallback& callback) {
  if (requests.empty()) return {};
  CheckRequests(model, tokenizer, requests, options);
  return Run(model, tokenizer, requests, options, callback).Finish();
}

}  // namespace nibble
