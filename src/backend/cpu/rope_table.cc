#include "backend/cpu/rope_table.h"

#include <algorithm>
#include <cmath>

namespace nibble::cpu {

void RopeTable::Prepare(std::span<const int32_t> positions, const Rotary& rotary) {
  const std::vector<float>& frequencies = rotary.inverse_frequencies;
  if (valid_ && rotary_.factor == rotary.factor &&
      std::ranges::equal(rotary_.inverse_frequencies, frequencies)) {
    return;
  }
  rotary_.inverse_frequencies.assign(frequencies.begin(), frequencies.end());
  rotary_.factor = rotary.factor;
  half_ = static_cast<int64_t>(frequencies.size());
  cosines_.resize(positions.size() * frequencies.size());
  sines_.resize(cosines_.size());
  size_t at = 0;
  for (const int32_t position : positions) {
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      cosines_[at] = std::cos(angle) * rotary.factor;
      sines_[at++] = std::sin(angle) * rotary.factor;
    }
  }
  valid_ = true;
}

}  // namespace nibble::cpu
