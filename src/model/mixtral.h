#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "backend/batch.h"
#include "model/decoder_layer.h"
#include "model/kv_cache.h"
#include "model/packed_weights.h"

namespace nibble {

// Receives logits [rows, vocab] of a run of a batch's logit rows, the first of which is
// batch.logit_rows[first]; runs come in order. The span lives until the call returns.
using LogitVisitor = std::function<void(int64_t first, std::span<const float> logits)>;

// The whole model, resident on a backend. One thread calls. The backend must outlive it.
class Mixtral {
 public:
  // Loads every weight, with a progress line, or maps the packed ones beside the checkpoint. The
  // checkpoint may be closed afterwards. `max_tokens` bounds a step. Throws kResourceExhausted if
  // the weights cannot fit in memory.
  Mixtral(const Checkpoint& checkpoint, Backend& backend, int64_t max_tokens);
  Mixtral(const Mixtral&) = delete;
  Mixtral& operator=(const Mixtral&) = delete;

  // One step: writes the KV slots of the batch's tokens and hands the logits of batch.logit_rows to
  // `visit`, so many rows at a time that they stay within a few MiB whatever the vocabulary. Throws
  // kInvalidArgument for a token id outside the vocabulary, kInvalidData naming the layer where a
  // hidden state is not finite.
  void Forward(const Batch& batch, KvCache& kv, const LogitVisitor& visit,
               LayerObserver* observer = nullptr);

  // The same with all logits [batch.logit_rows.size(), vocab] in `logits` (resized).
  void Forward(const Batch& batch, KvCache& kv, std::vector<float>& logits,
               LayerObserver* observer = nullptr);

  KvCache MakeKvCache(int64_t num_blocks, DType dtype = DType::kF32,
                      int64_t block_size = kKvBlockSize) const;

  const ModelConfig& config() const { return config_; }
  Backend& backend() const { return *backend_; }
  int64_t max_tokens() const { return max_tokens_; }
  int64_t weight_bytes() const;
  bool packed() const { return packed_.has_value(); }  // mapped, rather than repacked

 private:
  void RunLayers(const Batch& batch, KvCache& kv, LayerObserver* observer, bool check_each);
  int64_t FirstNonFiniteRow();  // of x_, or -1

  ModelConfig config_;
  Backend* backend_;
  int64_t max_tokens_;
  std::optional<PackedWeights> packed_;  // before the weights that borrow from it
  OuterWeights outer_;
  std::vector<LayerWeights> layers_;
  DecoderLayer layer_;
  LayerScratch scratch_;
  Activation x_;
  std::vector<float> host_;    // x_ on the host, for the check
  std::vector<float> logits_;  // one run of rows
};

}  // namespace nibble
