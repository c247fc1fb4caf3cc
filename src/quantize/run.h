#pragma once

#include <memory>

#include "data/calibration.h"
#include "nibble/quantize.h"

namespace nibble {

// One quantization run, from options and calibration tokens to report: what stands behind
// Quantize() and PlanQuantization().
class QuantizationRun {
 public:
  // Checks everything that can be known before the start: options, input, memory. Writes nothing.
  // The sequences may be empty for rounding to nearest only. Throws Error.
  QuantizationRun(const QuantizeOptions& options, CalibrationSet calibration);
  ~QuantizationRun();

  const QuantizePlan& plan() const;

  // Quantizes, writes, reads back. Throws Error; may be followed by another QuantizationRun with
  // `resume`.
  QuantizeReport Run();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
