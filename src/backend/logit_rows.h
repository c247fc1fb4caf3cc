#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "backend/sampling.h"

namespace nibble {

// The score of one token by a row of logits. If the row has a non-finite logit, log_sum is not
// finite and the other members are meaningless.
struct TokenScore {
  double log_probability = 0;  // of the given token, nats
  double log_sum = 0;          // ln Σ exp(logit)
  int32_t best = 0;            // the most probable token (ties: the lowest id)

  bool finite() const { return std::isfinite(log_sum); }
};

// The logits of some rows of a step, on the device. They are scored and sampled there; only
// results, or rows that are read, are copied to the host. Calls wait for the device.
class LogitRows {
 public:
  LogitRows() = default;
  virtual ~LogitRows() = default;
  LogitRows(const LogitRows&) = delete;
  LogitRows& operator=(const LogitRows&) = delete;

  virtual int64_t num_rows() const = 0;
  virtual int64_t vocab_size() const = 0;

  // A host copy of rows [first, first + out.size() / vocab_size()); `out` holds whole rows.
  virtual void Read(int64_t first, std::span<float> out) const = 0;

  // scores[i] says of row i how probable targets[i] is; both have num_rows() elements.
  virtual void Score(std::span<const int32_t> targets, std::span<TokenScore> scores) const = 0;

  // Chooses a token for each row; both have num_rows() elements. Uses the logits up: they cannot be
  // read afterwards.
  virtual void Sample(std::span<const SamplingRow> rows, std::span<Sampled> out) = 0;
};

}  // namespace nibble
