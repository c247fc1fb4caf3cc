#include "quantize/passes/activation_stream.h"

#include <span>

#include "base/interrupt.h"

namespace nibble {
Workspace::Workspace(Backend& backend, const ModelSpec& spec, int64_t max_tokens,
                     int64_t num_blocks)
    : scratch(backend, spec, max_tokens), x(backend.MakeActivation(max_tokens, spec.hidden_size)) {
  KvShape one_layer = spec.Kv(DType::kF32);
  one_layer.num_layers = 1;
  kv = backend.MakeKvPages(one_layer, num_blocks);
}

void ActivationStream::Embed(const Weight& table, HiddenStates& to) {
  for (const TokenBatch& batch : batches_->batches) {
    ThrowIfInterrupted();
    const Step step(*backend_, batch.batch, *workspace_->kv);
    backend_->Embed(table, workspace_->x);
    Download(batch.first_token, to);
  }
}

void ActivationStream::ForEach(const HiddenStates& from, HiddenStates* to,
                               const std::function<void(const TokenBatch& batch)>& step) {
  for (const TokenBatch& batch : batches_->batches) {
    ThrowIfInterrupted();
    workspace_->x.rows = batch.batch.num_tokens();
    const Step scope(*backend_, batch.batch, *workspace_->kv);
    Upload(from, batch.first_token);
    step(batch);
    if (to != nullptr) Download(batch.first_token, *to);
  }
}

std::span<float> ActivationStream::HostCopyOfX() {
  workspace_->host.resize(static_cast<size_t>(workspace_->x.rows * workspace_->x.cols));
  return workspace_->host;
}

void ActivationStream::Upload(const HiddenStates& from, int64_t first_token) {
  Activation& x = workspace_->x;
  if (!from.in_file()) return backend_->Upload(from.Rows(first_token, x.rows), x);
  const std::span<float> host = HostCopyOfX();
  from.Load(first_token, host);
  backend_->Upload(host, x);
}

void ActivationStream::Download(int64_t first_token, HiddenStates& to) {
  const Activation& x = workspace_->x;
  if (!to.in_file()) return backend_->Download(x, to.Rows(first_token, x.rows));
  const std::span<float> host = HostCopyOfX();
  backend_->Download(x, host);
  to.Store(first_token, host);
}

}  // namespace nibble
