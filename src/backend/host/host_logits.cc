#include "backend/host/host_logits.h"

#include <algorithm>

#include "backend/host/log_softmax.h"
#include "base/check.h"

namespace nibble {

HostLogits::HostLogits(int64_t max_rows, int64_t vocab_size, ThreadPool& pool)
    : pool_(&pool),
      max_rows_(max_rows),
      vocab_size_(vocab_size),
      samplers_(static_cast<size_t>(pool.num_threads())) {
  NIBBLE_CHECK(max_rows > 0 && vocab_size > 0);
}

std::span<float> HostLogits::Resize(int64_t rows) {
  NIBBLE_CHECK(rows >= 0 && rows <= max_rows_);
  num_rows_ = rows;
  const size_t size = static_cast<size_t>(rows * vocab_size_);
  if (values_.size() < size) values_.resize(size);
  return std::span(values_).first(size);
}

std::span<float> HostLogits::Row(int64_t row) {
  return std::span(values_).subspan(row * vocab_size_, vocab_size_);
}

std::span<const float> HostLogits::Row(int64_t row) const {
  return std::span(values_).subspan(row * vocab_size_, vocab_size_);
}

void HostLogits::Read(int64_t first, std::span<float> out) const {
  const int64_t count = static_cast<int64_t>(out.size()) / vocab_size_;
  NIBBLE_CHECK(static_cast<int64_t>(out.size()) == count * vocab_size_);
  NIBBLE_CHECK(first >= 0 && first + count <= num_rows_);
  std::copy_n(values_.begin() + first * vocab_size_, out.size(), out.begin());
}

void HostLogits::Score(std::span<const int32_t> targets, std::span<TokenScore> scores) const {
  NIBBLE_CHECK(static_cast<int64_t>(targets.size()) == num_rows_);
  NIBBLE_CHECK(scores.size() == targets.size());
  pool_->ParallelFor(num_rows_, [&](int64_t row, int /*thread*/) {
    const std::span<const float> logits = Row(row);
    const size_t i = static_cast<size_t>(row);
    const double log_sum = LogSumExp(logits);
    scores[i] = {static_cast<double>(logits[targets[i]]) - log_sum, log_sum, ArgMax(logits)};
  });
}

void HostLogits::Sample(std::span<const SamplingRow> rows, std::span<Sampled> out) {
  NIBBLE_CHECK(static_cast<int64_t>(rows.size()) == num_rows_ && out.size() == rows.size());
  pool_->ParallelFor(num_rows_, [&](int64_t row, int thread) {
    const size_t i = static_cast<size_t>(row);
    out[i] = samplers_[thread].Sample(rows[i], Row(row));
  });
}

}  // namespace nibble
