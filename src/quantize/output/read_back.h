#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/checkpoint.h"
#include "quantize/output/output_plan.h"
#include "quantize/passes/activation_stream.h"
#include "quantize/passes/probe.h"

namespace nibble {

// The final check of a finished checkpoint, from its files alone. Throws kInvalidData naming what
// is wrong: a name, type or shape (model/validate.h), bytes other than those computed, a row whose
// squared error exceeds 1.5 times its squared norm, or hidden states that differ from those seen
// while quantizing.
//
//   unit_digests   SHA-256 of each unit's tensors, as they were in memory
//   quantized      the quantized stream after the last layer; its first rows are the probe's
// Returns how well the checkpoint predicts the probe; nothing is run if the probe is empty.
ProbeScore ReadBack(const Checkpoint& source, const std::filesystem::path& output,
                    const OutputPlan& plan, std::span<const std::string> unit_digests,
                    const TokenBatches& probe_batches, const HiddenStates& quantized,
                    Backend& backend, Workspace& workspace);

}  // namespace nibble
