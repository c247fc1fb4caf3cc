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

// The buffers of one step, allocated once for the largest step and shared by all streams, which run
// one after another. With n tokens in the step:
//
//   scratch  intermediate results of a layer (model/decoder_layer.h)
//   kv       float pages of one layer, num_blocks blocks of kKvBlockSize tokens; every layer
//            overwrites them
//   x        [n, hidden_size], the residual stream, on the backend
//   host     [n, hidden_size], a buffer for hidden states in a file; empty if there are none
struct Workspace {
  // max_tokens and num_blocks are those of the largest step.
  Workspace(Backend& backend, const ModelSpec& spec, int64_t max_tokens, int64_t num_blocks);

  static int64_t SizeBytes(const Backend& backend, const ModelSpec& spec, int64_t max_tokens,
                           int64_t num_blocks);

  LayerScratch scratch;
  std::unique_ptr<KvPages> kv;
  Activation x;
  std::vector<float> host;
};

// Runs a set of tokens through layers, batch by batch. Borrows everything.
class ActivationStream {
 public:
  ActivationStream(const TokenBatches& batches, Backend& backend, Workspace& workspace)
      : batches_(&batches), backend_(&backend), workspace_(&workspace) {}

  const TokenBatches& batches() const { return *batches_; }
  Backend& backend() const { return *backend_; }
  Workspace& workspace() const { return *workspace_; }

  void Embed(const Weight& table, HiddenStates& to);

  // Runs `step` for each batch in order, between BeginStep and EndStep, with its rows of `from` in
  // workspace.x; afterwards stores workspace.x as the rows of `to`, unless that is null. `to` may
  // be `from`. Throws kInterrupted between steps.
  void ForEach(const HiddenStates& from, HiddenStates* to,
               const std::function<void(const TokenBatch& batch)>& step);

  // The same over rows of `from` that StoreExpertInput has filled: they are in
  // workspace.scratch.h, and workspace.x is left alone.
  void ForEachExpertInput(const HiddenStates& from,
                          const std::function<void(const TokenBatch& batch)>& step);

  // Inside a step, what experts read, which DecoderLayer::Route leaves in workspace.scratch.h: to
  // the rows of `to`, and back.
  void StoreExpertInput(const TokenBatch& batch, HiddenStates& to);
  void LoadExpertInput(const TokenBatch& batch, const HiddenStates& from);

 private:
  void Upload(const HiddenStates& from, int64_t first_token, Activation& x);
  void Download(const Activation& x, int64_t first_token, HiddenStates& to);
  std::span<float> HostCopyOf(const Activation& x);

  const TokenBatches* batches_;
  Backend* backend_;
  Workspace* workspace_;
};

}  // namespace nibble
