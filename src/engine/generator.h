#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/kv_pages.h"
#include "backend/sampling.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace nibble {

struct GenerationRequest {
  std::vector<int32_t> prompt;  // not empty; ids below the vocabulary size
  SamplingParams params;
};

enum class FinishReason { kStop, kLength, kError };

struct Generation {
  std::vector<int32_t> tokens;  // an end-of-sequence or stop id is included
  std::vector<double> log_probabilities;
  std::string text;  // without stop ids' text and without the stop string
  FinishReason finish = FinishReason::kLength;
  std::string error;  // why, where finish is kError: the tokens before are good
};

struct GeneratorOptions {
  int64_t max_batch_tokens = 512;     // tokens a step; longer prompts are cut into chunks
  int64_t max_sequences = 64;         // running at once
  int64_t block_size = kKvBlockSize;  // tokens a KV block
  // KV blocks; 0: as many as the requests could hold at once, within nine tenths of free memory.
  int64_t num_blocks = 0;
  DType kv_dtype = DType::kF32;
  std::vector<int32_t> end_ids = {};  // end-of-sequence ids
  uint64_t seed = 0;                  // of requests without one: request i draws by (seed, i)
};

// One more token of a request, in the order of generation; or its failure, without a token.
struct GenerationEvent {
  size_t request = 0;      // index
  int32_t token = -1;      // -1: the request has failed
  std::string_view delta;  // the text that is now certain, valid during the call
  bool finished = false;   // no more events of this request
};
using GenerationCallback = std::function<void(const GenerationEvent& event)>;

// Runs requests together over the paged KV cache as Scheduler plans: every step decodes all running
// sequences and fills the rest of its token budget with prompt chunks. The result of a request
// depends only on the request and its index (for a backend that keeps its promise about rows): not
// on batch mates, chunks, blocks or preemptions. A request whose logits are not finite ends with an
// error of its own; the others continue.
//
// Text leaves special tokens out, so a stop string that is one stops at its id. `tokenizer` may be
// null: then there is no text, and stop strings are refused. Throws
// kInvalidArgument for bad parameters or a prompt that cannot fit, and kResourceExhausted where the
// KV cache cannot hold one request, before anything runs.
std::vector<Generation> Generate(Model& model, const Tokenizer* tokenizer,
                                 std::span<const GenerationRequest> requests,
                                 const GeneratorOptions& options,
                                 const GenerationCallback& callback = nullptr);

}  // namespace nibble
