#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace nibble {

// How the next token is chosen; names and meaning follow vLLM's SamplingParams.
struct SamplingParams {
  double temperature = 1.0;          // ≥ 0; below 1e-5 the choice is greedy and the filters are off
  double top_p = 1.0;                // in (0, 1]
  int64_t top_k = 0;                 // 0 or -1: off
  double min_p = 0.0;                // in [0, 1]
  double repetition_penalty = 1.0;   // > 0; tokens of prompt and output
  double presence_penalty = 0.0;     // in [-2, 2]; tokens of the output
  double frequency_penalty = 0.0;    // in [-2, 2]; times their count in the output
  std::optional<int64_t> seed = {};  // none: the engine gives each request one
  int64_t max_tokens = 16;           // ≥ 1
  int64_t min_tokens = 0;            // the end-of-sequence and stop ids are masked before that
  std::vector<std::string> stop = {};  // no empty strings; that of a special token is also its id
  std::vector<int32_t> stop_token_ids = {};
  bool ignore_eos = false;

  bool greedy() const { return temperature < 1e-5; }
};

// Throws kInvalidArgument naming the field, the value and the allowed range.
void CheckSamplingParams(const SamplingParams& params, int64_t vocab_size);

// The inputs of the choice of one row's token besides its logits. Borrows.
struct SamplingRow {
  const SamplingParams* params = nullptr;
  std::span<const int32_t> prompt = {};
  std::span<const int32_t> output = {};   // so far; its size is the position of the next token
  std::span<const int32_t> end_ids = {};  // masked while output.size() < min_tokens
  uint64_t seed = 0;
};

// A row whose logits are not finite has no token: then log_sum is not finite either.
struct Sampled {
  int32_t token = 0;
  double log_probability = 0;  // of the model itself: before penalties and temperature
  double log_sum = 0;          // ln Σ exp(logit), likewise

  bool finite() const { return std::isfinite(log_sum); }
};

}  // namespace nibble
