#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "checkpoint/model_config.h"
#include "checkpoint/quant_config.h"
#include "tensor/packed.h"
#include "tensor/tensor.h"

namespace nibble {

// A tensor as its file describes it.
struct TensorInfo {
  std::string dtype;  // "BF16", or the name of an element type that nibble does not know
  Shape shape;
  int64_t size_bytes = 0;
};

// A Hugging Face checkpoint directory, opened read-only: shards are mapped, headers are parsed,
// nothing else is read. Views borrow from the mapping and live as long as this object. Safe to read
// concurrently.
class Checkpoint {
 public:
  // The index, where there is one, decides what belongs to the checkpoint and where it is. Throws
  // kNotFound / kInvalidData naming the missing shard, the shard that is damaged, and so on.
  explicit Checkpoint(const std::filesystem::path& directory);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;

  const std::filesystem::path& directory() const;
  const ModelConfig& config() const;
  const std::optional<QuantConfig>& quant_config() const;

  std::vector<std::string> names() const;  // every tensor, sorted

  // Where index and shards disagree, which is an error only if such a tensor is needed: what the
  // index lists and its shard lacks, what a shard holds and the index does not list. Sorted.
  std::vector<std::string> lost() const;
  std::vector<std::string> unlisted() const;
  // What they say of a tensor of either kind; none for any other.
  std::optional<std::string> Disagreement(std::string_view name) const;

  bool Has(std::string_view name) const;
  const TensorInfo& Info(std::string_view name) const;  // throws as Get does
  // Throws kNotFound naming the tensor and directory, kInvalidData with the Disagreement. Of an
  // element type that nibble does not know, the bytes: U8 [size].
  TensorView Get(std::string_view name) const;
  // Get, with the shape and type (BF16, F16 or F32) checked; the error gives expected and found.
  TensorView Get(std::string_view name, const Shape& shape) const;

  // The packed-integer tensors of Linear `module` ("…q_proj", no suffix), shapes checked against
  // [rows, cols] and quant_config().
  PackedView GetPacked(std::string_view module, int64_t rows, int64_t cols) const;
  bool IsPacked(std::string_view module) const;

  int64_t total_bytes() const;  // of tensor data
  // total_size of the index: informative, never relied on. nullopt without an index.
  std::optional<int64_t> declared_bytes() const;
  int64_t num_shards() const;
  const std::vector<MappedFile>& shards() const;  // in the order of their names

  // Hints to the kernel: WillNeed prefetches the pages of `view`, DontNeed drops them.
  void WillNeed(const TensorView& view) const;
  void DontNeed(const TensorView& view) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The shape that the tensor weight_shape of a packed Linear holds: I64 [2], or I32 of some writers.
Shape ReadWeightShape(const TensorView& weight_shape);

}  // namespace nibble
