#include "model/mixtral.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/system.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// BeginStep and EndStep as a scope, so that an exception in between leaves the backend usable.
class Step {
 public:
  Step(Backend& backend, const Batch& batch) : backend_(backend) { backend_.BeginStep(batch); }
  ~Step() { backend_.EndStep(); }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

 private:
  Backend& backend_;
};

void CheckFits(const Checkpoint& checkpoint) {
  const int64_t available = AvailableMemoryBytes();
  if (checkpoint.total_bytes() <= available) return;
  throw Error(
      ErrorCode::kResourceExhausted,
      fmt::format("{}: the weights take {}, and {} of memory are available; use a quantized "
                  "checkpoint or a larger machine",
                  checkpoint.directory().string(), FormatBytes(checkpoint.total_bytes()),
                  FormatBytes(available)));
}

void CheckTokens(const Batch& batch, int64_t vocab_size) {
  for (const int32_t token : batch.tokens) {
    if (token >= 0 && token < vocab_size) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("token id {} is outside the model's vocabulary of {}; is this the "
                            "tokenizer of another model?",
                            token, vocab_size));
  }
}

}  // namespace

Mixtral::Mixtral(const Checkpoint& checkpoint, Backend& backend, int64_t max_tokens)
    : config_(checkpoint.config()),
      backend_(&backend),
      max_tokens_(max_tokens),
      layer_(config_, backend),
      scratch_(backend, config_, max_tokens),
      x_(backend.MakeActivation(max_tokens, config_.hidden_size)) {
  CheckFits(checkpoint);
  Progress progress("load " + checkpoint.directory().filename().string(), "layers",
                    config_.num_layers);
  packed_ = OpenPackedWeights(checkpoint, backend);
  const PackedWeights* const packed = packed_ ? &*packed_ : nullptr;
  if (packed == nullptr) WillNeedLayer(checkpoint, 0);
  outer_ = LoadOuter(checkpoint, backend, packed);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    ThrowIfInterrupted();
    if (packed == nullptr && layer + 1 < config_.num_layers) WillNeedLayer(checkpoint, layer + 1);
    layers_.push_back(LoadLayer(checkpoint, layer, backend, packed));
    progress.Add(1);
  }
}

int64_t Mixtral::weight_bytes() const {
  int64_t bytes = outer_.size_bytes();
  for (const LayerWeights& layer : layers_) bytes += layer.size_bytes();
  return bytes;
}

KvCache Mixtral::MakeKvCache(int64_t num_blocks, DType dtype, int64_t block_size) const {
  return KvCache(*backend_, config_.num_layers, num_blocks, block_size, config_.num_kv_heads,
                 config_.head_dim, dtype);
}

int64_t Mixtral::FirstNonFiniteRow() {
  host_.resize(static_cast<size_t>(x_.rows * x_.cols));
  backend_->Download(x_, host_);
  const auto bad =
      std::find_if(host_.begin(), host_.end(), [](float value) { return !std::isfinite(value); });
  return bad == host_.end() ? -1 : (bad - host_.begin()) / x_.cols;
}

void Mixtral::RunLayers(const Batch& batch, KvCache& kv, LayerObserver* observer, bool check_each) {
  backend_->Embed(*outer_.embedding, x_);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    layer_.Forward(layers_[static_cast<size_t>(layer)], kv.layer(layer), x_, scratch_, observer);
    const int64_t bad = check_each ? FirstNonFiniteRow() : -1;
    if (bad < 0) continue;
    const size_t row = static_cast<size_t>(bad);
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: its output for token {} at position {} is not finite; the weights "
                            "of this layer are damaged or too large",
                            mixtral_names::Layer(layer), batch.tokens[row], batch.positions[row]));
  }
}

void Mixtral::Forward(const Batch& batch, KvCache& kv, const LogitVisitor& visit,
                      LayerObserver* observer) {
  NIBBLE_CHECK(batch.num_tokens() > 0 && batch.num_tokens() <= max_tokens_);
  CheckTokens(batch, config_.vocab_size);
  const Step step(*backend_, batch);
  RunLayers(batch, kv, observer, /*check_each=*/false);
  // What is not finite stays so through the residual stream: one look at its end is enough, and
  // only a broken model pays for the second run that names the layer.
  if (FirstNonFiniteRow() >= 0) RunLayers(batch, kv, nullptr, /*check_each=*/true);

  constexpr int64_t kRunBytes = int64_t{16} << 20;
  const int64_t vocab = config_.vocab_size;
  const int64_t run =
      std::max<int64_t>(1, kRunBytes / (vocab * static_cast<int64_t>(sizeof(float))));
  const HeadWeights head{.norm = outer_.final_norm.get(),
                         .head = outer_.head.get(),
                         .norm_eps = static_cast<float>(config_.rms_norm_eps)};
  const std::span<const int32_t> rows = batch.logit_rows;
  const int64_t num_rows = static_cast<int64_t>(rows.size());
  for (int64_t first = 0; first < num_rows; first += run) {
    const int64_t count = std::min(run, num_rows - first);
    logits_.resize(static_cast<size_t>(count * vocab));
    backend_->Logits(x_, head, rows.subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
                     logits_);
    visit(first, logits_);
  }
}

void Mixtral::Forward(const Batch& batch, KvCache& kv, std::vector<float>& logits,
                      LayerObserver* observer) {
  logits.clear();
  logits.reserve(batch.logit_rows.size() * static_cast<size_t>(config_.vocab_size));
  Forward(
      batch, kv,
      [&logits](int64_t /*first*/, std::span<const float> run) {
        logits.insert(logits.end(), run.begin(), run.end());
      },
      observer);
}

}  // namespace nibble
