#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "checkpoint/checkpoint_writer.h"
#include "model/weights.h"
#include "quantize/output/output_plan.h"
#include "quantize/recipe.h"

namespace nibble {

// A finished layer as it stands in the output, made ready to run: what the next layer's calibration
// sees is exactly what a reader of the checkpoint will compute. Leaves no pages of the files
// resident.
LayerWeights LoadWrittenLayer(const CheckpointWriter& writer, const OutputPlan& plan,
                              const ModelConfig& config, const Recipe& recipe, int64_t layer,
                              Backend& backend);

}  // namespace nibble
