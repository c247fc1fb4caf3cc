#include "quantize/passes/activation_stream.h"

#include <span>

#include "base/interrupt.h"

namespace nibble {
namespace {

KvShape OneLayer(const ModelSpec& spec) {
  KvShape shape = spec.Kv(DType::kF32);
  shape.num_layers = 1;
  return shape;
}

}  // namespace

Workspace::Workspace(Backend& backend, const ModelSpec& spec, int64_t max_tokens,
                     int64_t num_blocks)
    : scratch(backend, spec, max_tokens), x(backend.MakeActivation(max_tokens, spec.hidden_size)) {
  kv = backend.MakeKvPages(OneLayer(spec), num_blocks);
}

int64_t Workspace::SizeBytes(const Backend& backend, const ModelSpec& spec, int64_t max_tokens,
                             int64_t num_blocks) {
  const int64_t x_and_host = 2 * max_tokens * spec.hidden_size * int64_t{sizeof(float)};
  return LayerScratch::SizeBytes(spec, max_tokens) + x_and_host +
         num_blocks * backend.KvBlockBytes(OneLayer(spec));
}

void ActivationStream::Embed(const Weight& table, HiddenStates& to) {
  for (const TokenBatch& batch : batches_->batches) {
    ThrowIfInterrupted();
    const Step step(*backend_, batch.batch, *workspace_->kv);
    backend_->Embed(table, workspace_->x);
    Download(workspace_->x, batch.first_token, to);
  }
}

void ActivationStream::ForEach(const HiddenStates& from, HiddenStates* to,
                               const std::function<void(const TokenBatch& batch)>& step) {
  for (const TokenBatch& batch : batches_->batches) {
    ThrowIfInterrupted();
    workspace_->x.rows = batch.batch.num_tokens();
    const Step scope(*backend_, batch.batch, *workspace_->kv);
    Upload(from, batch.first_token, workspace_->x);
    step(batch);
    if (to != nullptr) Download(workspace_->x, batch.first_token, *to);
  }
}

void ActivationStream::ForEachExpertInput(
    const HiddenStates& from, const std::function<void(const TokenBatch& batch)>& step) {
  for (const TokenBatch& batch : batches_->batches) {
    ThrowIfInterrupted();
    const Step scope(*backend_, batch.batch, *workspace_->kv);
    LoadExpertInput(batch, from);
    step(batch);
  }
}

void ActivationStream::StoreExpertInput(const TokenBatch& batch, HiddenStates& to) {
  Download(workspace_->scratch.h, batch.first_token, to);
}

void ActivationStream::LoadExpertInput(const TokenBatch& batch, const HiddenStates& from) {
  Activation& h = workspace_->scratch.h;
  h.Resize(batch.batch.num_tokens(), from.cols());
  Upload(from, batch.first_token, h);
}

std::span<float> ActivationStream::HostCopyOf(const Activation& x) {
  workspace_->host.resize(x.rows * x.cols);
  return workspace_->host;
}

void ActivationStream::Upload(const HiddenStates& from, int64_t first_token, Activation& x) {
  if (!from.in_file()) return backend_->Upload(from.Rows(first_token, x.rows), x);
  const std::span<float> host = HostCopyOf(x);
  from.Load(first_token, host);
  backend_->Upload(host, x);
}

void ActivationStream::Download(const Activation& x, int64_t first_token, HiddenStates& to) {
  if (!to.in_file()) return backend_->Download(x, to.Rows(first_token, x.rows));
  const std::span<float> host = HostCopyOf(x);
  backend_->Download(x, host);
  to.Store(first_token, host);
}

}  // namespace nibble
