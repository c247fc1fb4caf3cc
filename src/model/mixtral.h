#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/decoder_layer.h"
#include "model/kv_cache.h"

namespace nibble {

// The whole model, resident on a backend.
class Mixtral {
 public:
  // Loads every weight, with a progress line. The checkpoint may be closed afterwards. `max_tokens` bounds a step.
  Mixtral(const Checkpoint& checkpoint, Backend& backend, int64_t max_tokens);

  // One step. Returns logits [batch.logit_rows.size(), vocab] in `logits` (resized). Throws
  // kInvalidData naming the layer if a hidden state is not finite.
  void Forward(const Batch& batch, KvCache& kv, std::vector<float>& logits,
               LayerObserver* observer = nullptr);

  // A cache for `num_blocks` blocks of 16 tokens.
  KvCache MakeKvCache(int64_t num_blocks, DType dtype = DType::kF32);

  const ModelConfig& config() const { return config_; }
  Backend& backend() { return *backend_; }
  int64_t max_tokens() const { return max_tokens_; }
  int64_t weight_bytes() const;

 private:
  ModelConfig config_;
  Backend* backend_;
  int64_t max_tokens_;
  OuterWeights outer_;
  std::vector<LayerWeights> layers_;
  DecoderLayer layer_;
  LayerScratch scratch_;
  Activation x_;
};

}  // namespace nibble
