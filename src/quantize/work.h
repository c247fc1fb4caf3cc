#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backend/linalg.h"
#include "checkpoint/model_config.h"
#include "nibble/quantize.h"
#include "quantize/token_batches.h"

namespace nibble {

// Floating-point operations of one layer, in units of 1e9; a multiplication and an addition are
// two.
struct LayerWork {
  double attention = 0;           // q, k, v, scores and sums, o, over all tokens
  double gate_up = 0;             // w1 and w3 of the routed slots
  double down = 0;                // w2
  double statistics = 0;          // Gram updates of all taps
  double calibrated_gate_up = 0;  // w1 and w3 of the slots statistics are gathered from
  double solve = 0;               // factors and sweeps

  double calibrate() const { return attention + calibrated_gate_up + statistics; }
  double advance() const { return attention + gate_up + down; }
};

// `all_experts`: every expert's statistics see every token.
LayerWork CountLayerWork(const ModelConfig& config, const TokenBatches& batches, bool all_experts);

// Single-precision rate of matrix products over all threads, by float multiply-adds (matrix tiles
// may beat it), measured for a few hundredths of a second.
double MeasureGflopPerSecond(Linalg& linalg);

// Wall time, CPU time and floating-point work by phase.
class PhaseClock {
 public:
  // Runs to the end of its life.
  class Scope {
   public:
    Scope(PhaseClock& clock, std::string_view name, double gflop);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    PhaseClock* clock_;
    size_t index_;
    std::chrono::steady_clock::time_point start_;
    double cpu_start_;
  };

  // Phases do not overlap. The same name adds up.
  [[nodiscard]] Scope Measure(std::string_view name, double gflop = 0) {
    return Scope(*this, name, gflop);
  }

  // In order of first use, with bounds at this rate.
  std::vector<PhaseReport> Reports(double gflop_per_second) const;

 private:
  std::vector<PhaseReport> phases_;
};

}  // namespace nibble
