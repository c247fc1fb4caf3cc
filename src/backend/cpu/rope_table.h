#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/shapes.h"

namespace nibble::cpu {

// Cosines and sines of the rotary angles of a step's tokens, computed once a step for all layers.
// The angle position * frequency is rounded to float, as the published implementations do.
class RopeTable {
 public:
  // Invalidates the angles of the previous step.
  void Reset() { valid_ = false; }

  void Prepare(std::span<const int32_t> positions, const Rotary& rotary);

  // [half()] each, of token `token`.
  int64_t half() const { return half_; }
  const float* cosines(int64_t token) const { return cosines_.data() + token * half_; }
  const float* sines(int64_t token) const { return sines_.data() + token * half_; }

 private:
  bool valid_ = false;
  int64_t half_ = 0;
  Rotary rotary_;
  std::vector<float> cosines_;
  std::vector<float> sines_;
};

}  // namespace nibble::cpu
