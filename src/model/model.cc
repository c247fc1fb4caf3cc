#include "model/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr int64_t kLogitBytes = int64_t{16} << 20;  // held at once, about

int64_t RowsAtOnce(int64_t vocab_size) {
  return std::max<int64_t>(1, kLogitBytes / (vocab_size * static_cast<int64_t>(sizeof(float))));
}

void CheckFits(const Checkpoint& checkpoint, const Backend& backend) {
  const int64_t available = backend.FreeBytes();
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

Model::Model(const Checkpoint& checkpoint, Backend& backend, int64_t max_tokens)
    : family_(&FindFamily(checkpoint.config())),
      spec_(SpecOf(checkpoint.config())),
      backend_(&backend),
      max_tokens_(max_tokens),
      layer_(backend),
      scratch_(backend, spec_, max_tokens),
      x_(backend.MakeActivation(max_tokens, spec_.hidden_size)),
      rows_at_once_(RowsAtOnce(spec_.vocab_size)),
      logits_(backend.MakeLogitRows(rows_at_once_, spec_.vocab_size)) {
  CheckFits(checkpoint, backend);
  WarnOfUntiedHead(checkpoint);
  Progress progress("load " + checkpoint.directory().filename().string(), "layers",
                    spec_.num_layers());
  packed_ = OpenPackedWeights(checkpoint, backend);
  const PackedWeights* const packed = packed_ ? &*packed_ : nullptr;
  if (packed == nullptr) WillNeedLayer(checkpoint, 0);
  outer_ = LoadOuter(checkpoint, backend, packed);
  for (int64_t layer = 0; layer < spec_.num_layers(); ++layer) {
    ThrowIfInterrupted();
    if (packed == nullptr && layer + 1 < spec_.num_layers()) WillNeedLayer(checkpoint, layer + 1);
    layers_.push_back(LoadLayer(checkpoint, layer, backend, packed));
    progress.Add(1);
  }
}

int64_t Model::weight_bytes() const {
  int64_t bytes = outer_.size_bytes();
  for (const LayerWeights& layer : layers_) bytes += layer.size_bytes();
  return bytes;
}

std::unique_ptr<KvPages> Model::MakeKvPages(int64_t num_blocks, DType dtype,
                                            int64_t block_size) const {
  return backend_->MakeKvPages(spec_.Kv(dtype, block_size), num_blocks);
}

void Model::RunLayer(int64_t index, LayerObserver* observer) {
  layer_.Forward(spec_.layer(index), layers_[index], index, x_, scratch_, observer);
}

void Model::Forward(const Batch& batch, KvPages& kv, const LogitVisitor& visit,
                    LayerObserver* observer) {
  NIBBLE_CHECK(batch.num_tokens() > 0 && batch.num_tokens() <= max_tokens_);
  CheckTokens(batch, spec_.vocab_size);
  const Step step(*backend_, batch, kv);
  backend_->Embed(*outer_.embedding, x_);
  for (int64_t layer = 0; layer < spec_.num_layers(); ++layer) RunLayer(layer, observer);

  const std::span<const int32_t> rows = batch.logit_rows;
  const int64_t num_rows = static_cast<int64_t>(rows.size());
  for (int64_t first = 0; first < num_rows; first += rows_at_once_) {
    const int64_t count = std::min(rows_at_once_, num_rows - first);
    backend_->Head(x_, outer_.head_weights(spec_.norm_eps), rows.subspan(first, count), *logits_);
    visit(first, *logits_);
  }
}

void Model::Forward(const Batch& batch, KvPages& kv, std::vector<float>& logits,
                    LayerObserver* observer) {
  const size_t vocab = static_cast<size_t>(spec_.vocab_size);
  logits.resize(batch.logit_rows.size() * vocab);
  Forward(
      batch, kv,
      [&](int64_t first, LogitRows& rows) {
        rows.Read(0, std::span(logits).subspan(static_cast<size_t>(first) * vocab,
                                               static_cast<size_t>(rows.num_rows()) * vocab));
      },
      observer);
}

Error Model::Explain(const Batch& batch, KvPages& kv, std::span<const int32_t> rows) {
  std::vector<int32_t> suspects;  // what those rows see of this batch: their sequences up to them
  for (const int32_t row : rows) {
    const auto start = std::ranges::upper_bound(batch.starts, row) - 1;
    for (int32_t i = *start; i <= row; ++i) suspects.push_back(i);
  }
  std::vector<float> host;
  const auto is_broken = [&](int32_t row) {
    const auto values = std::span(host).subspan(row * x_.cols, x_.cols);
    return !std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
  };
  const Step step(*backend_, batch, kv);
  backend_->Embed(*outer_.embedding, x_);
  for (int64_t layer = 0; layer < spec_.num_layers(); ++layer) {
    RunLayer(layer, nullptr);
    host.resize(x_.rows * x_.cols);
    backend_->Download(x_, host);
    const auto bad = std::ranges::find_if(suspects, is_broken);
    if (bad == suspects.end()) continue;
    const size_t row = static_cast<size_t>(*bad);
    return Error(
        ErrorCode::kInvalidData,
        fmt::format("{}: its output for token {} at position {} is not finite; the weights "
                    "of this layer are damaged or too large",
                    LayerModule(*family_, layer), batch.tokens[row], batch.positions[row]));
  }
  return Error(ErrorCode::kInvalidData,
               "the logits are not finite; the weights of the final norm or the head are damaged "
               "or too large");
}

}  // namespace nibble
