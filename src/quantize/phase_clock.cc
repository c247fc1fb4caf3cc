#include "quantize/phase_clock.h"

#include <algorithm>
#include <string>

#include "base/system.h"

namespace nibble {

PhaseClock::Scope::Scope(PhaseClock& clock, std::string_view name, double gflop) : clock_(&clock) {
  std::vector<PhaseReport>& phases = clock.phases_;
  const auto found = std::find_if(phases.begin(), phases.end(),
                                  [&](const PhaseReport& phase) { return phase.name == name; });
  index_ = static_cast<size_t>(found - phases.begin());
  if (found == phases.end()) phases.push_back({.name = std::string(name)});
  phases[index_].gflop += gflop;
  start_ = std::chrono::steady_clock::now();
  cpu_start_ = CpuSeconds();
}

PhaseClock::Scope::~Scope() {
  PhaseReport& phase = clock_->phases_[index_];
  phase.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  phase.cpu_seconds += CpuSeconds() - cpu_start_;
}

std::vector<PhaseReport> PhaseClock::Reports(double gflop_per_second) const {
  std::vector<PhaseReport> reports = phases_;
  for (PhaseReport& phase : reports) {
    if (gflop_per_second > 0) phase.bound_seconds = phase.gflop / gflop_per_second;
  }
  return reports;
}

}  // namespace nibble
