#pragma once

#include <memory>

#include "data/calibration.h"
#include "nibble/quantize.h"

namespace nibble {

// One quantization run, from options and calibration tokens to report: the implementation of
// Quantize() and PlanQuantization().
class QuantizationRun {
 public:
  // Checks everything that can be known before the start. Writes nothing. The sequences may be
  // empty for rounding to nearest only. Throws Error for unfit options or input; too little memory
  // or disk is told by the plan.
  QuantizationRun(const QuantizeOptions& options, CalibrationSet calibration);
  ~QuantizationRun();

  const QuantizePlan& plan() const;

  // Quantizes, writes, reads back. Throws Error, kResourceExhausted if the plan lacks anything; may
  // be followed by another QuantizationRun with `resume`.
  QuantizeReport Run();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
