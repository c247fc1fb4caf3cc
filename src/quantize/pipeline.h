#pragma once

#include <memory>

#include "data/calibration.h"
#include "nibble/quantize.h"

namespace nibble {

// One quantization run, from options and calibration tokens to report: what stands behind
// Quantize() and PlanQuantization().
class Pipeline {
 public:
  // Checks everything that can be known before the start: options, input, memory. Writes nothing.
  // The sequences may be empty for rounding to nearest only. Throws Error.
  Pipeline(const QuantizeOptions& options, CalibrationSet calibration);
  ~Pipeline();

  const QuantizePlan& plan() const;

  // Quantizes, writes, reads back. Throws Error; may be followed by another Pipeline with `resume`.
  QuantizeReport Run();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
