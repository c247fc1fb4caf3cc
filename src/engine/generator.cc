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
#include "base/system.h"
#include "engine/scheduler.h"
#include "model/batch_builder.h"
#include "nibble/error.h"
#include "text/detokenizer.h"

namespace nibble {
namespace {

int64_t MaxOutput(const GenerationRequest& request, const ModelConfig& config) {
  return std::min(request.params.max_tokens,
                  config.max_positions - static_cast<int64_t>(request.prompt.size()));
}

uint64_t SeedOf(const SamplingParams& params, uint64_t run_seed, size_t index) {
  if (params.seed) return static_cast<uint64_t>(*params.seed);
  // Draws have zeros in the upper half of their counter: a one there keeps seeds apart from them.
  const std::array<uint32_t, 4> block = Philox4x32(
      {static_cast<uint32_t>(run_seed), static_cast<uint32_t>(run_seed >> 32)},
      {static_cast<uint32_t>(index), static_cast<uint32_t>(uint64_t{index} >> 32), 1, 0});
  return uint64_t{block[0]} << 32 | block[1];
}

// Refuses what could never run.
void CheckRequests(const Mixtral& model, const Tokenizer* tokenizer,
                   std::span<const GenerationRequest> requests, const GeneratorOptions& options) {
  const ModelConfig& config = model.config();
  for (const int32_t id : options.end_ids) {
    if (id >= 0 && id < config.vocab_size) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("end_ids: token id {} is outside the model's vocabulary of {}", id,
                            config.vocab_size));
  }
  const auto refuse = [](size_t index, const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("prompt {}: {}", index, why));
  };
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto& [prompt, params] = requests[i];
    CheckSamplingParams(params, config.vocab_size);
    if (tokenizer == nullptr && !params.stop.empty()) {
      throw Error(ErrorCode::kInvalidArgument, "stop: stop strings need a tokenizer");
    }
    if (prompt.empty()) {
      refuse(i, "it has no tokens; give some text or a tokenizer that adds BOS");
    }
    if (static_cast<int64_t>(prompt.size()) >= config.max_positions) {
      refuse(i, fmt::format("{} tokens leave no room for an answer: the model takes {}",
                            prompt.size(), config.max_positions));
    }
    for (const int32_t id : prompt) {
      if (id >= 0 && id < config.vocab_size) continue;
      refuse(i, fmt::format("token id {} is outside the model's vocabulary of {}", id,
                            config.vocab_size));
    }
  }
}

// How many KV blocks the pool gets.
int64_t ChooseNumBlocks(const Mixtral& model, std::span<const GenerationRequest> requests,
                        const GeneratorOptions& options) {
  const ModelConfig& config = model.config();
  std::vector<int64_t> needed;
  for (const GenerationRequest& request : requests) {
    needed.push_back(Scheduler::BlocksNeeded(static_cast<int64_t>(request.prompt.size()),
                                             MaxOutput(request, config), options.block_size));
  }
  std::sort(needed.begin(), needed.end(), std::greater<>());
  const int64_t largest = needed.front();
  const size_t at_once = std::min(needed.size(), static_cast<size_t>(options.max_sequences));
  const int64_t wanted = std::accumulate(
      needed.begin(), needed.begin() + static_cast<std::ptrdiff_t>(at_once), int64_t{0});

  const KvPages page{.data = nullptr,
                     .dtype = options.kv_dtype,
                     .num_blocks = 1,
                     .block_size = options.block_size,
                     .num_kv_heads = config.num_kv_heads,
                     .head_dim = config.head_dim};
  const int64_t block_bytes = config.num_layers * page.bytes_per_block();
  const int64_t memory_bytes = AvailableMemoryBytes() / 10 * 9;
  const int64_t affordable = memory_bytes / block_bytes;
  const int64_t chosen = options.num_blocks > 0 ? options.num_blocks : std::min(wanted, affordable);
  if (chosen < largest) {
    throw Error(ErrorCode::kResourceExhausted,
                fmt::format("KV cache: one request alone may need {} blocks of {} tokens ({}), but "
                            "there is room for {} ({}); lower max_tokens or shorten the prompt",
                            largest, options.block_size, FormatBytes(largest * block_bytes), chosen,
                            FormatBytes(chosen * block_bytes)));
  }
  return chosen;
}

class Run {
 public:
  Run(Mixtral& model, const Tokenizer* tokenizer, std::span<const GenerationRequest> requests,
      const GeneratorOptions& options, const GenerationCallback& callback)
      : model_(model),
        requests_(requests),
        options_(options),
        callback_(callback),
        pool_(ChooseNumBlocks(model, requests, options)),
        kv_(model.MakeKvCache(pool_.num_blocks(), options.kv_dtype, options.block_size)),
        scheduler_({.max_step_tokens = std::min(options.max_batch_tokens, model.max_tokens()),
                    .max_running = options.max_sequences,
                    .block_size = options.block_size},
                   pool_),
        samplers_(static_cast<size_t>(model.backend().linalg().num_threads())),
        results_(requests.size()),
        detokenizers_(requests.size()) {
    for (size_t i = 0; i < requests.size(); ++i) {
      if (tokenizer != nullptr) detokenizers_[i].emplace(*tokenizer, requests[i].params.stop);
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
      const auto tokens =
          std::span(sequence.tokens)
              .subspan(static_cast<size_t>(chunk.first), static_cast<size_t>(chunk.count));
      builder.Add(tokens, chunk.first, sequence.blocks,
                  chunk.wants_token ? chunk.count - 1 : chunk.count);
      if (chunk.wants_token) yielding_.push_back(static_cast<size_t>(chunk.sequence));
    }
    model_.Forward(builder.Take(), kv_, logits_);

    sampled_.resize(yielding_.size());
    const size_t vocab = static_cast<size_t>(model_.config().vocab_size);
    model_.backend().linalg().ParallelFor(
        static_cast<int64_t>(yielding_.size()), [&](int64_t row, int thread) {
          const size_t i = static_cast<size_t>(row);
          sampled_[i] = Sample(samplers_[static_cast<size_t>(thread)], yielding_[i],
                               std::span(logits_).subspan(i * vocab, vocab));
        });
    tokens_.clear();
    for (const Sampled& sampled : sampled_) tokens_.push_back(sampled.token);
    scheduler_.Commit(tokens_);
    for (size_t i = 0; i < yielding_.size(); ++i) Accept(yielding_[i], sampled_[i]);
  }

  std::span<const int32_t> EndIds(size_t request) const {
    return requests_[request].params.ignore_eos ? std::span<const int32_t>()
                                                : std::span(options_.end_ids);
  }

  Sampled Sample(Sampler& sampler, size_t request, std::span<float> logits) const {
    const SamplingParams& params = requests_[request].params;
    const SamplingState state = {requests_[request].prompt, results_[request].tokens,
                                 EndIds(request), SeedOf(params, options_.seed, request)};
    return sampler.Sample(params, state, logits);
  }

  // Books a token, turns it into text and decides whether the request ends with it.
  void Accept(size_t request, const Sampled& sampled) {
    const SamplingParams& params = requests_[request].params;
    Generation& result = results_[request];
    result.tokens.push_back(sampled.token);
    result.log_probabilities.push_back(sampled.log_probability);

    const auto contains = [&](std::span<const int32_t> ids) {
      return std::find(ids.begin(), ids.end(), sampled.token) != ids.end();
    };
    const bool stop_id = contains(EndIds(request)) || contains(params.stop_token_ids);
    const bool full = static_cast<int64_t>(result.tokens.size()) >=
                      MaxOutput(requests_[request], model_.config());
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

  Mixtral& model_;
  std::span<const GenerationRequest> requests_;
  const GeneratorOptions& options_;
  const GenerationCallback& callback_;
  BlockPool pool_;
  KvCache kv_;
  Scheduler scheduler_;
  std::vector<Sampler> samplers_;  // one a thread
  std::vector<Generation> results_;
  std::vector<std::optional<Detokenizer>> detokenizers_;

  // Of one step: requests that yield a token, their logits, what was chosen.
  std::vector<size_t> yielding_;
  std::vector<float> logits_;
  std::vector<Sampled> sampled_;
  std::vector<int32_t> tokens_;
};

}  // namespace

std::vector<Generation> Generate(Mixtral& model, const Tokenizer* tokenizer,
                                 std::span<const GenerationRequest> requests,
                                 const GeneratorOptions& options,
                                 const GenerationCallback& callback) {
  if (requests.empty()) return {};
  CheckRequests(model, tokenizer, requests, options);
  return Run(model, tokenizer, requests, options, callback).Finish();
}

}  // namespace nibble
