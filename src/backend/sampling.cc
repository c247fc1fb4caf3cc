#include "backend/sampling.h"

#include <fmt/format.h>

#include "nibble/error.h"

namespace nibble {
namespace {

void CheckRange(bool ok, const char* field, double value, const char* allowed) {
  if (ok) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("`{}`: expected {}, found {}", field, allowed, value));
}

}  // namespace

void CheckSamplingParams(const SamplingParams& p, int64_t vocab_size) {
  CheckRange(std::isfinite(p.temperature) && p.temperature >= 0, "temperature", p.temperature,
             "a number of at least 0");
  CheckRange(p.top_p > 0 && p.top_p <= 1, "top_p", p.top_p, "a number above 0 and at most 1");
  CheckRange(p.top_k >= -1, "top_k", static_cast<double>(p.top_k),
             "0 or -1 (off), or a positive integer");
  CheckRange(p.min_p >= 0 && p.min_p <= 1, "min_p", p.min_p, "a number from 0 to 1");
  CheckRange(std::isfinite(p.repetition_penalty) && p.repetition_penalty > 0, "repetition_penalty",
             p.repetition_penalty, "a number above 0");
  CheckRange(p.presence_penalty >= -2 && p.presence_penalty <= 2, "presence_penalty",
             p.presence_penalty, "a number from -2 to 2");
  CheckRange(p.frequency_penalty >= -2 && p.frequency_penalty <= 2, "frequency_penalty",
             p.frequency_penalty, "a number from -2 to 2");
  CheckRange(p.max_tokens >= 1, "max_tokens", static_cast<double>(p.max_tokens), "at least 1");
  CheckRange(p.min_tokens >= 0 && p.min_tokens <= p.max_tokens, "min_tokens",
             static_cast<double>(p.min_tokens), "a number from 0 to `max_tokens`");
  for (const std::string& stop : p.stop) {
    if (stop.empty())
      throw Error(ErrorCode::kInvalidArgument, "`stop`: a stop string must not be empty");
  }
  for (const int32_t id : p.stop_token_ids) {
    CheckRange(id >= 0 && id < vocab_size, "stop_token_ids", id, "ids below the vocabulary size");
  }
}

}  // namespace nibble
