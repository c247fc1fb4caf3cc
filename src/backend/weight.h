#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
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

// How a backend lays out the weights it prepares, where each is one run of bytes that means the
// same on every machine: such weights can be kept in a file and used from a mapping of it.
class WeightLayout {
 public:
  // Bytes that must be readable behind those of a weight; kernels read whole vectors.
  static constexpr int64_t kSlackBytes = 64;
  static constexpr int64_t kAlignment = 64;

  virtual ~WeightLayout() = default;
  virtual std::string_view name() const = 0;  // with a version: other bytes, another name

  // How many bytes Prepare would make of `weight`. Looks at shapes and types and the group index,
  // at no values. Throws as Prepare does.
  virtual int64_t SizeBytes(const WeightView& weight, Role role) const = 0;

  // What Prepare made; lives as long as the weight.
  virtual std::span<const std::byte> Bytes(const Weight& weight) const = 0;

  // The weight that Prepare would make of `weight`, from bytes it made earlier: SizeBytes of them,
  // aligned to kAlignment, with kSlackBytes behind. Borrows them for the life of the result. Any
  // content is safe to compute with; whether it is the right one is the caller's business.
  virtual std::unique_ptr<Weight> Adopt(const WeightView& weight, Role role,
                                        std::span<const std::byte> bytes) const = 0;
};

}  // namespace nibble
