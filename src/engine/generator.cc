#include "engine/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "base/check.h"
#include "base/interrupt.h"
#include "engine/block_pool.h"
#include "model/batch_builder.h"
#include "nibble/error.h"
#include "text/detokenizer.h"

namespace nibble {
namespace {

constexpr int64_t kBlockSize = 16;

// The running state of one request.
struct Sequence {
  size_t request = 0;
  std::vector<int32_t> tokens;  // prompt, then output
  int64_t prompt_length = 0;
  int64_t max_output = 0;
  int64_t computed = 0;  // tokens whose keys and values are in the cache
  std::vector<int32_t> blocks;
  std::optional<Detokenizer> detokenizer;

  int64_t pending() const { return static_cast<int64_t>(tokens.size()) - computed; }
  std::span<const int32_t> output() const {
    return std::span(tokens).subspan(static_cast<size_t>(prompt_length));
  }
};

class Run {
 public:
  Run(Mixtral& model, const Tokenizer* tokenizer, std::span<const GenerationRequest> requests,
      const GeneratorOptions& options, const GenerationCallback& callback, int64_t num_blocks)
      : model_(model),
        requests_(requests),
        options_(options),
        callback_(callback),
        kv_(model.MakeKvCache(num_blocks, options.kv_dtype, kBlockSize)),
        pool_(num_blocks),
        results_(requests.size()) {
    sequences_.resize(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      Sequence& sequence = sequences_[i];
      sequence.request = i;
      sequence.tokens = requests[i].prompt;
      sequence.prompt_length = static_cast<int64_t>(requests[i].prompt.size());
      sequence.max_output = std::min(requests[i].params.max_tokens,
                                     model.config().max_positions - sequence.prompt_length);
      if (tokenizer != nullptr) sequence.detokenizer.emplace(*tokenizer, requests[i].params.stop);
      waiting_.push_back(&sequence);
    }
  }

  std::vector<Generation> Finish() {
    while (!waiting_.empty() || !running_.empty()) {
      ThrowIfInterrupted();
      Step();
    }
    NIBBLE_CHECK(pool_.num_free() == pool_.num_blocks());
    return std::move(results_);
  }

 private:
  struct Scheduled {
    Sequence* sequence;
    int64_t num_tokens;
  };

  // Grows the sequence's block table to `num_tokens`; false when the pool is dry.
  bool Reserve(Sequence& sequence, int64_t num_tokens) {
    while (static_cast<int64_t>(sequence.blocks.size()) < BlocksFor(num_tokens, kBlockSize)) {
      const std::optional<int32_t> block = pool_.Allocate();
      if (!block) return false;
      sequence.blocks.push_back(*block);
    }
    return true;
  }

  void ReleaseBlocks(Sequence& sequence) {
    for (const int32_t block : sequence.blocks) pool_.Release(block);
    sequence.blocks.clear();
  }

  // The youngest goes back to the queue, so the oldest always gets on.
  void PreemptYoungest() {
    Sequence* youngest = running_.back();
    running_.pop_back();
    ReleaseBlocks(*youngest);
    youngest->computed = 0;
    waiting_.push_front(youngest);
  }

  // Running sequences first, oldest first, then new ones, within the token budget.
  std::vector<Scheduled> Plan() {
    std::vector<Scheduled> plan;
    int64_t budget = options_.max_batch_tokens;
    for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
      Sequence& sequence = *running_[i];
      const int64_t count = std::min(sequence.pending(), budget);
      bool reserved = false;
      while (!(reserved = Reserve(sequence, sequence.computed + count)) &&
             running_.size() > i + 1) {
        PreemptYoungest();
      }
      if (!reserved) {  // it is itself the youngest: wait until older ones finish
        PreemptYoungest();
        break;
      }
      plan.push_back({&sequence, count});
      budget -= count;
    }
    while (!waiting_.empty() && budget > 0 &&
           static_cast<int64_t>(running_.size()) < options_.max_sequences) {
      Sequence& sequence = *waiting_.front();
      const int64_t count = std::min(sequence.pending(), budget);
      if (!Reserve(sequence, count)) {
        ReleaseBlocks(sequence);
        break;
      }
      waiting_.pop_front();
      running_.push_back(&sequence);
      plan.push_back({&sequence, count});
      budget -= count;
    }
    NIBBLE_CHECK(!plan.empty());
    return plan;
  }

  static Batch MakeBatch(const std::vector<Scheduled>& plan) {
    BatchBuilder builder;
    for (const auto& [sequence, count] : plan) {
      // Only the last token of all that is known has something new to predict.
      const int64_t first_logit = count == sequence->pending() ? count - 1 : count;
      builder.Add(std::span(sequence->tokens)
                      .subspan(static_cast<size_t>(sequence->computed), static_cast<size_t>(count)),
                  sequence->computed, sequence->blocks, first_logit);
    }
    return builder.Take();
  }

  void Step() {
    const std::vector<Scheduled> plan = Plan();
    const Batch batch = MakeBatch(plan);
    model_.Forward(batch, kv_, logits_);
    const size_t vocab = static_cast<size_t>(model_.config().vocab_size);
    size_t row = 0;
    for (const auto& [sequence, count] : plan) {
      sequence->computed += count;
      if (sequence->pending() > 0) continue;
      Accept(*sequence, std::span(logits_).subspan(row++ * vocab, vocab));
    }
    std::erase_if(running_, [](const Sequence* sequence) { return sequence->blocks.empty(); });
  }

  // Draws the next token and decides whether the sequence ends with it.
  void Accept(Sequence& sequence, std::span<float> logits) {
    const SamplingParams& params = requests_[sequence.request].params;
    Generation& result = results_[sequence.request];
    const std::span<const int32_t> end_ids =
        params.ignore_eos ? std::span<const int32_t>() : std::span(options_.end_ids);
    const SamplingState state = {
        std::span(sequence.tokens).first(static_cast<size_t>(sequence.prompt_length)),
        sequence.output(), end_ids, static_cast<uint64_t>(params.seed.value_or(0))};
    const Sampled sampled = sampler_.Sample(params, state, logits);
    sequence.tokens.push_back(sampled.token);
    result.tokens.push_back(sampled.token);
    result.log_probabilities.push_back(sampled.log_probability);

    const auto contains = [&](std::span<const int32_t> ids) {
      return std::find(ids.begin(), ids.end(), sampled.token) != ids.end();
    };
    const bool stop_id = contains(end_ids) || contains(params.stop_token_ids);
    const bool full = static_cast<int64_t>(result.tokens.size()) >= sequence.max_output;
    std::string delta;
    bool stop_string = false;
    if (sequence.detokenizer) {
      if (!stop_id) delta = sequence.detokenizer->Add(sampled.token);
      stop_string = sequence.detokenizer->stopped();
      if (!stop_string && (stop_id || full)) delta += sequence.detokenizer->Finish();
    }
    result.text += delta;
    if (stop_id || stop_string || full) {
      result.finish = stop_id || stop_string ? FinishReason::kStop : FinishReason::kLength;
      ReleaseBlocks(sequence);
    }
    if (callback_) callback_(sequence.request, sampled.token, delta);
  }

  Mixtral& model_;
  std::span<const GenerationRequest> requests_;
  const GeneratorOptions& options_;
  const GenerationCallback& callback_;
  KvCache kv_;
  BlockPool pool_;
  Sampler sampler_;
  std::vector<Sequence> sequences_;
  std::deque<Sequence*> waiting_;
  std::vector<Sequence*> running_;  // oldest first
  std::vector<float> logits_;
  std::vector<Generation> results_;
};

// Refuses what could never run; returns the KV blocks of the largest request.
int64_t CheckRequests(const Mixtral& model, const Tokenizer* tokenizer,
                      std::span<const GenerationRequest> requests) {
  const ModelConfig& config = model.config();
  int64_t largest = 1;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto& [prompt, params] = requests[i];
    CheckSamplingParams(params, config.vocab_size);
    if (tokenizer == nullptr && !params.stop.empty()) {
      throw Error(ErrorCode::kInvalidArgument, "stop: stop strings need a tokenizer");
    }
    if (prompt.empty()) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("prompt {}: it has no tokens; give some text or a tokenizer that adds BOS",
                      i));
    }
    const int64_t length = static_cast<int64_t>(prompt.size());
    if (length >= config.max_positions) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("prompt {}: {} tokens leave no room for an answer: the model takes {}", i,
                      length, config.max_positions));
    }
    for (const int32_t id : prompt) {
      if (id < 0 || id >= config.vocab_size) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("prompt {}: token id {} is outside the model's vocabulary of {}", i,
                                id, config.vocab_size));
      }
    }
    const int64_t output = std::min(params.max_tokens, config.max_positions - length);
    largest = std::max(largest, BlocksFor(length + output, kBlockSize));
  }
  return largest;
}

}  // namespace

std::vector<Generation> Generate(Mixtral& model, const Tokenizer* tokenizer,
                                 std::span<const GenerationRequest> requests,
                                 const GeneratorOptions& options,
                                 const GenerationCallback& callback) {
  const int64_t largest = CheckRequests(model, tokenizer, requests);
  const int64_t at_once = std::min(static_cast<int64_t>(requests.size()), options.max_sequences);
  const int64_t num_blocks =
      options.num_blocks > 0 ? options.num_blocks : largest * std::max(at_once, int64_t{1});
  if (num_blocks < largest) {
    throw Error(ErrorCode::kResourceExhausted,
                fmt::format("KV cache: {} blocks of {} tokens, but one request alone may need {}",
                            num_blocks, kBlockSize, largest));
  }
  GeneratorOptions bounded = options;
  bounded.max_batch_tokens = std::min(options.max_batch_tokens, model.max_tokens());
  return Run(model, tokenizer, requests, bounded, callback, num_blocks).Finish();
}

}  // namespace nibble
