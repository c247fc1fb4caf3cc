#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/decoder_layer.h"
#include "quantize/passes/hidden_states.h"
#include "quantize/passes/token_batches.h"

namespace nibble {

// What one step needs besides weights; made once and lent to every stream.
struct Workspace {
  Workspace(Backend& backend, const ModelSpec& spec, int64_t max_tokens, int64_t num_blocks);

  LayerScratch scratch;
  std::unique_ptr<KvPages> kv;  // of one layer, which all take in turn
  Activation x;
  std::vector<float> host;  // a step's activations on their way to or from a file
};

// A set of tokens on its way through the layers. Borrows everything.
class ActivationStream {
 public:
  ActivationStream(const TokenBatches& batches, Backend& backend, Workspace& workspace)
      : batches_(&batches), backend_(&backend), workspace_(&workspace) {}

  const TokenBatches& batches() const { return *batches_; }

  void Embed(const Weight& table, HiddenStates& to);

  // Runs `step` for each batch in order, between BeginStep and EndStep, with its rows of `from` in
  // workspace.x; what `step` leaves there becomes the rows of `to`, unless that is null. `to` may
  // be `from`. Throws kInterrupted between steps.
  void ForEach(const HiddenStates& from, HiddenStates* to,
               const std::function<void(const TokenBatch& batch)>& step);

  // Rows of `from` from `first_token` on, as many as workspace.x has, to workspace.x.
  void Upload(const HiddenStates& from, int64_t first_token);

 private:
  void Download(int64_t first_token, HiddenStates& to);
  std::span<float> HostCopyOfX();

  const TokenBatches* batches_;
  Backend* backend_;
  Workspace* workspace_;
};

}  // namespace nibble
