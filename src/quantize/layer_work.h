#pragma once

#include <cstdint>

#include "backend/gptq_algebra.h"
#include "checkpoint/model_config.h"
#include "quantize/passes/token_batches.h"

namespace nibble {

// Floating-point operations of one layer, in units of 1e9; a multiplication and an addition are
// two.
struct LayerWork {
  double attention = 0;           // q, k, v, scores and sums, o, over all tokens
  double gate_up = 0;             // w1 and w3 of the routed slots
  double down = 0;                // w2
  double statistics = 0;          // Gram updates of all taps
  double calibrated_gate_up = 0;  // w1 and w3 of the slots that enter the Hessians
  double solve = 0;               // factors and sweeps

  double calibrate() const { return attention + calibrated_gate_up + statistics; }
  double advance() const { return attention + gate_up + down; }
};

// `all_experts`: every expert's statistics see every token.
LayerWork CountLayerWork(const ModelConfig& config, const TokenBatches& batches, bool all_experts);

// Single-precision rate of matrix products over all threads with float multiply-adds (AMX tiles may
// exceed it), measured for a few hundredths of a second.
double MeasureGflopPerSecond(GptqAlgebra& algebra);

}  // namespace nibble
