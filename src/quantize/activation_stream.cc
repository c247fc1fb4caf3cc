#include "quantize/activation_stream.h"

#include <span>

#include "base/interrupt.h"

namespace nibble {
namespace {

// A backend must leave a step even when something throws inside it.
class Step {
 public:
  Step(Backend& backend, const Batch& batch) : backend_(&backend) { backend.BeginStep(batch); }
  ~Step() { backend_->EndStep(); }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

 private:
  Backend* backend_;
};

}  // namespace

Workspace::Workspace(Backend& backend, const ModelConfig& config, int64_t max_tokens,
                     int64_t num_blocks)
    : scratch(backend, config, max_tokens),
      kv(backend, 1, num_blocks, kKvBlockSize, config.num_kv_heads, config.head_dim, DType::kF32),
      x(backend.MakeActivation(max_tokens, config.hidden_size)) {}

void ActivationStream::Embed(const Weight& table, HiddenStates& to) {
  for (const TokenBatch& batch : batches_->batches) {
    ThrowIfInterrupted();
    const Step step(*backend_, batch.batch);
    Activation& x = workspace_->x;
    backend_->Embed(table, x);
    workspace_->host.resize(static_cast<size_t>(x.rows * x.cols));
    backend_->Download(x, workspace_->host);
    to.Store(batch.first_token, workspace_->host);
  }
}

void ActivationStream::ForEach(const HiddenStates& from, HiddenStates* to,
                               const std::function<void(const TokenBatch& batch)>& step) {
  for (const TokenBatch& batch : batches_->batches) {
    ThrowIfInterrupted();
    Activation& x = workspace_->x;
    x.rows = batch.batch.num_tokens();
    std::vector<float>& host = workspace_->host;
    host.resize(static_cast<size_t>(x.rows * x.cols));
    from.Load(batch.first_token, host);
    const Step scope(*backend_, batch.batch);
    backend_->Upload(host, x);
    step(batch);
    if (to == nullptr) continue;
    backend_->Download(x, host);
    to->Store(batch.first_token, host);
  }
}

}  // namespace nibble
