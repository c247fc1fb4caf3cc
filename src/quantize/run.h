#pragma once

#include <functional>
#include <memory>

#include "checkpoint/model_config.h"
#include "data/calibration.h"
#include "nibble/quantize.h"

namespace nibble {

// Reads the calibration rows as tokens of this model. No sequences: there are no rows.
using CalibrationLoader = std::function<CalibrationSet(const ModelConfig& config)>;

// One quantization run, from options to report: the implementation of Quantize() and
// PlanQuantization().
class QuantizationRun {
 public:
  // Checks everything that can be known before the start, what is quick before what is slow: the
  // recipe, the input and what can be made of it; then has the calibration rows read, and plans
  // memory and disk. Writes nothing. Throws Error for unfit options or input, also for no rows,
  // unless it is rounding to nearest; too little memory or disk is told by the plan.
  QuantizationRun(const QuantizeOptions& options, const CalibrationLoader& load_calibration);
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
