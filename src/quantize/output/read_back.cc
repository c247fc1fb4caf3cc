#include "quantize/output/read_back.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/interrupt.h"
#include "base/sha256.h"
#include "model/validate.h"
#include "nibble/error.h"

namespace nibble {
namespace {

[[noreturn]] void Corrupt(const std::filesystem::path& output, const std::string& what) {
  throw Error(
      ErrorCode::kInvalidData,
      fmt::format("{}: read back after writing: {}; the disk or memory of this machine may be "
                  "faulty, do not use the output",
                  output.string(), what));
}

void CheckDigests(const Checkpoint& written, const OutputPlan& plan,
                  std::span<const std::string> unit_digests) {
  for (size_t unit = 0; unit < plan.units().size(); ++unit) {
    ThrowIfInterrupted();
    Sha256Hasher hasher;
    for (const TensorPlan& tensor : plan.units()[unit].tensors) {
      const TensorView view = written.Get(tensor.name);
      hasher.Add(view.bytes());
      written.DontNeed(view);
    }
    if (hasher.Finish() != unit_digests[unit]) {
      Corrupt(written.directory(), plan.units()[unit].name + " differs from what was computed");
    }
  }
}

// Decodes one row of each quantized Linear, a different one in each, and compares it with the
// original. Catches what digests cannot: codes in the wrong places, scales of another tensor.
void CheckDecodedRows(const Checkpoint& source, const Checkpoint& written, const OutputPlan& plan) {
  int64_t index = 0;
  for (const TensorSpec& spec : TensorsOf(source.config())) {
    if (spec.tap == Tap::kNone || !plan.IsQuantized(spec.module)) continue;
    const int64_t row = ++index * 7919 % spec.rows;
    std::vector<float> decoded(spec.cols);
    DequantizeRows(written.GetPacked(spec.module, spec.rows, spec.cols), row, 1, decoded);
    const TensorView dense = FindDense(source, spec);
    const std::vector<float> original = ToFloat(dense.Rows(row, 1));
    double error = 0, norm = 0;
    for (size_t k = 0; k < original.size(); ++k) {
      const double difference = static_cast<double>(decoded[k] - original[k]);
      error += difference * difference;
      norm += static_cast<double>(original[k]) * static_cast<double>(original[k]);
    }
    if (!(error <= 1.5 * norm)) {
      Corrupt(written.directory(),
              fmt::format("row {} of {} decodes to other weights than the original's (error {:.3g} "
                          "of their energy)",
                          row, spec.module, norm > 0 ? error / norm : error));
    }
  }
}

}  // namespace

ProbeScore ReadBack(const Checkpoint& source, const std::filesystem::path& output,
                    const OutputPlan& plan, std::span<const std::string> unit_digests,
                    const TokenBatches& probe_batches, const HiddenStates& quantized,
                    Backend& backend, Workspace& workspace) {
  const Checkpoint written(output);
  const ValidationReport validation = ValidateStructure(written);
  if (validation.verdict() != Grade::kOk) Corrupt(output, validation.Remarks());
  CheckDigests(written, plan, unit_digests);
  CheckDecodedRows(source, written, plan);
  if (probe_batches.num_tokens == 0) return {};

  OuterWeights outer = LoadOuter(written, backend);
  const ModelSpec spec = SpecOf(written.config());
  Probe probe(spec, probe_batches, backend, workspace, outer);
  probe.Embed();
  outer.embedding.reset();
  for (int64_t layer = 0; layer < spec.num_layers(); ++layer) {
    const LayerWeights weights = LoadLayer(written, layer, backend);
    probe.RunAttention(spec.layer(layer), weights);
    probe.RunExperts(weights, 0, spec.layer(layer).router.num_experts);
  }
  const size_t size = static_cast<size_t>(probe.num_tokens() * spec.hidden_size);
  std::vector<float> expected(size), found(size);
  quantized.Load(0, expected);
  probe.original().Load(0, found);
  if (expected != found) {
    Corrupt(output, "the model computes other activations than while it was being quantized");
  }
  return probe.Score(probe.original());
}

}  // namespace nibble
