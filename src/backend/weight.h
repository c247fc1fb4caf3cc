#pragma once

#include <cstdint>
#include <variant>

#include "tensor/packed.h"
#include "tensor/tensor.h"

namespace nibble {

// What a checkpoint offers for one parameter: dense values ([rows, cols], or [cols] for a norm) in
// BF16, F16 or F32, or packed integers. A new format makes the compiler list the places to visit.
using WeightView = std::variant<TensorView, PackedView>;

// What a weight is for; a backend chooses its layout by it.
enum class Role { kNorm, kEmbedding, kProjection, kRouter, kHead };

// A weight in a backend's own layout. Opaque to everyone else; independent of the view it came
// from.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual int64_t rows() const = 0;  // outputs (1 for a norm)
  virtual int64_t cols() const = 0;  // inputs
  virtual int64_t size_bytes() const = 0;
};

}  // namespace nibble
