#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/host/sampler.h"
#include "backend/logit_rows.h"
#include "base/thread_pool.h"

namespace nibble {

// Rows of logits in host memory: the only implementation that backends of the host need.
class HostLogits final : public LogitRows {
 public:
  // Room for max_rows rows; the pool must outlive this.
  HostLogits(int64_t max_rows, int64_t vocab_size, ThreadPool& pool);

  // Makes it `rows` rows, to be written: [rows, vocab_size], row-major.
  std::span<float> Resize(int64_t rows);
  std::span<float> Row(int64_t row);

  int64_t num_rows() const override { return num_rows_; }
  int64_t vocab_size() const override { return vocab_size_; }
  void Read(int64_t first, std::span<float> out) const override;
  void Score(std::span<const int32_t> targets, std::span<TokenScore> scores) const override;
  void Sample(std::span<const SamplingRow> rows, std::span<Sampled> out) override;

 private:
  std::span<const float> Row(int64_t row) const;

  ThreadPool* pool_;
  int64_t max_rows_;
  int64_t vocab_size_;
  int64_t num_rows_ = 0;
  std::vector<float> values_;
  std::vector<Sampler> samplers_;  // one a thread
};

}  // namespace nibble
