#pragma once

#include <chrono>
#include <cstddef>
#include <string_view>
#include <vector>

#include "nibble/quantize.h"

namespace nibble {

// Wall time, CPU time and floating-point work by phase.
class PhaseClock {
 public:
  // Measures until its destruction.
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
