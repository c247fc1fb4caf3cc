#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tensor/packed.h"
#include "tensor/tensor.h"

namespace nibble {

// A parameter as a checkpoint stores it: dense values ([rows, cols], or [cols] for a vector) in
// BF16, F16 or F32, or packed integers. A new format makes the compiler list the places to visit.
using WeightView = std::variant<TensorView, PackedView>;

struct MatrixShape {
  int64_t rows = 0;  // outputs (1 for a vector)
  int64_t cols = 0;  // inputs

  friend bool operator==(const MatrixShape&, const MatrixShape&) = default;
};

MatrixShape ShapeOf(const WeightView& weight);

// Rows [first, first + count) of a matrix, or elements of a vector: what one of several ranks holds
// of it. Borrows what
// `weight` borrows; a group index is that of the whole, since it describes columns. Where zero
// points are packed along the rows, `first` must start a word of them.
WeightView RowsOf(const WeightView& weight, int64_t first, int64_t count);

// What the parts of a weight are for; a backend chooses its layout by it, and whether the parts
// become one matrix.
enum class Role {
  kVector,      // a norm, a correction: one part
  kQkvBias,     // biases of queries, keys, values: one part each
  kOutBias,     // of the output of attention: one part
  kSinks,       // a score for each query head: one part
  kEmbedding,   // one part, whose rows are looked up
  kRouter,      // one part
  kHead,        // one part
  kProjection,  // one part: the output of attention
  kQkv,         // queries, keys, values, which read the same input
  kGateUp,      // gate and up of one expert, or of each expert of a range in turn
  kDown,        // down, likewise
};

// A weight in a backend's own layout: one matrix or several that are used together. Opaque outside
// the backend; independent of the views it was prepared from.
class Weight {
 public:
  explicit Weight(std::vector<MatrixShape> parts) : parts_(std::move(parts)) {}
  virtual ~Weight() = default;
  virtual int64_t size_bytes() const = 0;

  int64_t num_parts() const { return static_cast<int64_t>(parts_.size()); }
  const MatrixShape& part(int64_t index) const { return parts_[index]; }
  int64_t rows() const { return parts_.front().rows; }  // of the first part
  int64_t cols() const { return parts_.front().cols; }

 private:
  std::vector<MatrixShape> parts_;
};

// The layout of a backend's prepared weights, if each part is one contiguous block of bytes with
// the same meaning on every machine: such weights can be kept in a file and used from a mapping of
// it.
class WeightLayout {
 public:
  // Bytes that must be readable behind those of a part; kernels read whole vectors.
  static constexpr int64_t kSlackBytes = 64;
  static constexpr int64_t kAlignment = 64;

  virtual ~WeightLayout() = default;
  virtual std::string_view name() const = 0;  // with a version: other bytes, another name

  // Size in bytes of what Prepare makes of a part. Reads shapes, types and the group index, no
  // values. Throws as Prepare does.
  virtual int64_t SizeBytes(const WeightView& part, Role role) const = 0;

  // The bytes that Prepare made of a part; they live as long as the weight.
  virtual std::span<const std::byte> Bytes(const Weight& weight, int64_t part) const = 0;

  // The weight that Prepare would make of `parts`, from bytes it made earlier: of each part
  // SizeBytes of them, aligned to kAlignment, with kSlackBytes behind. Borrows them for the life of
  // the result. Any content is memory-safe; that it is the right one is the caller's
  // responsibility.
  virtual std::unique_ptr<Weight> Adopt(
      std::span<const WeightView> parts, Role role,
      std::span<const std::span<const std::byte>> bytes) const = 0;
};

}  // namespace nibble
