#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/decoder_layer.h"
#include "model/packed_weights.h"
#include "model/spec.h"
#include "nibble/error.h"

namespace nibble {

// Called with consecutive slices of a batch's logits, in order: row 0 of `logits` is that of
// batch.logit_rows[first]. They live until the call returns.
using LogitVisitor = std::function<void(int64_t first, LogitRows& logits)>;

// The whole model, resident on a backend. One thread calls. The backend must outlive it.
class Model {
 public:
  // Loads every weight, with a progress line, or maps the packed ones beside the checkpoint. The
  // checkpoint may be closed afterwards. `max_tokens` bounds a step. Throws kResourceExhausted if
  // the weights cannot fit in memory.
  Model(const Checkpoint& checkpoint, Backend& backend, int64_t max_tokens);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // One step: writes the KV slots of the batch's tokens and hands the logits of batch.logit_rows to
  // `visit`, so many rows at a time that they stay within a few MiB whatever the vocabulary. A row
  // that is not finite shows in what the visitor reads; its mates are as they would be without it.
  // Throws kInvalidArgument for a token id outside the vocabulary.
  void Forward(const Batch& batch, KvPages& kv, const LogitVisitor& visit,
               LayerObserver* observer = nullptr);

  // The same with all logits [batch.logit_rows.size(), vocab] in `logits` (resized).
  void Forward(const Batch& batch, KvPages& kv, std::vector<float>& logits,
               LayerObserver* observer = nullptr);

  // Why the logits of one of these query rows of a batch that was just run are not finite: runs its
  // layers once more, looking at each. kInvalidData naming the layer, the token and its position;
  // the head if no layer is to blame.
  Error Explain(const Batch& batch, KvPages& kv, std::span<const int32_t> rows);

  std::unique_ptr<KvPages> MakeKvPages(int64_t num_blocks, DType dtype = DType::kF32,
                                       int64_t block_size = kKvBlockSize) const;

  const ModelSpec& spec() const { return spec_; }
  Backend& backend() const { return *backend_; }
  int64_t max_tokens() const { return max_tokens_; }
  int64_t weight_bytes() const;
  bool packed() const { return packed_.has_value(); }  // mapped, rather than repacked

 private:
  void RunLayer(int64_t index, LayerObserver* observer);

  const Family* family_;
  ModelSpec spec_;
  Backend* backend_;
  int64_t max_tokens_;
  std::optional<PackedWeights> packed_;  // before the weights that borrow from it
  OuterWeights outer_;
  std::vector<LayerWeights> layers_;
  DecoderLayer layer_;
  LayerScratch scratch_;
  Activation x_;
  int64_t rows_at_once_;  // of logits
  std::unique_ptr<LogitRows> logits_;
};

}  // namespace nibble
