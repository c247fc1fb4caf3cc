#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "checkpoint/checkpoint_writer.h"
#include "model/weights.h"
#include "quantize/output/output_plan.h"
#include "quantize/recipe.h"

namespace nibble {

// Loads a finished layer from the output: the next layer is calibrated with exactly the activations
// that a reader of the checkpoint computes. Leaves no pages of the files resident.
LayerWeights LoadWrittenLayer(const CheckpointWriter& writer, const OutputPlan& plan,
                              const ModelConfig& config, const Recipe& recipe, int64_t layer,
                              Backend& backend);

}  // namespace nibble
