#include "backend/cpu/rope_table.h"

#include <algorithm>
#include <cmath>

namespace nibble::cpu {

void RopeTable::Prepare(std::span<const int32_t> positions,
                        std::span<const float> inverse_frequencies) {
  if (valid_ && std::ranges::equal(frequencies_, inverse_frequencies)) return;
  frequencies_.assign(inverse_frequencies.begin(), inverse_frequencies.end());
  half_ = static_cast<int64_t>(frequencies_.size());
  cosines_.resize(positions.size() * frequencies_.size());
  sines_.resize(cosines_.size());
  size_t at = 0;
  for (const int32_t position : positions) {
    for (const float frequency : frequencies_) {
      const float angle = static_cast<float>(position) * frequency;
      cosines_[at] = std::cos(angle);
      sines_[at++] = std::sin(angle);
    }
  }
  valid_ = true;
}

}  // namespace nibble::cpu
