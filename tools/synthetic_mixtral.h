#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

// Mixtral checkpoints of any shape with random weights: for measuring, where only sizes matter.
namespace nibble {

struct SyntheticShape {
  int64_t hidden = 2048;
  int64_t intermediate = 7168;
  int64_t layers = 8;
  int64_t heads = 16;
  int64_t kv_heads = 4;
  int64_t head_dim = 128;
  int64_t experts = 8;
  int64_t experts_per_token = 2;
  int64_t vocab = 32000;
};

struct SyntheticOptions {
  SyntheticShape shape;
  bool packed = false;       // W4A16 in pack-quantized layout instead of bf16
  int64_t group_size = 128;  // packed only
  uint64_t seed = 42;
  int64_t max_shard_bytes = 5'000'000'000;
};

enum class Content {
  kNormal,  // BF16, normally distributed with the tensor's sigma
  kOnes,    // BF16
  kBits,    // I32, every bit random: eight codes a word
  kScales,  // BF16, uniform in [0.5, 1.5) * sigma
  kShape,   // I64, the two numbers in `linear`
};

struct SyntheticTensor {
  std::string name;
  DType dtype = DType::kBF16;
  Shape shape;
  Content content = Content::kNormal;
  double sigma = 1;
  std::array<int64_t, 2> linear{};

  int64_t size_bytes() const { return shape.num_elements() * DTypeSize(dtype); }
};

// Every tensor of the model, in model order. A linear's weights have the deviation 1 /
// sqrt(inputs), so that activations stay near one through any number of layers.
std::vector<SyntheticTensor> PlanTensors(const SyntheticOptions& options);

// Bytes [begin, begin + out.size()) of the tensor's data; both are multiples of 8, except that the
// last piece of a tensor ends where the tensor does. A byte depends on (seed, tensor name,
// position) alone, so any split over threads gives the same file.
void FillTensor(const SyntheticTensor& tensor, uint64_t seed, int64_t begin,
                std::span<std::byte> out);

// Writes shards, index and config.json into `directory`, which must be absent or empty. Streams:
// memory holds a few MiB a thread. Throws kInvalidArgument for an impossible shape,
// kResourceExhausted when the disk is too small, kIo. Returns the bytes of tensor data written.
int64_t WriteSyntheticModel(const SyntheticOptions& options, const std::filesystem::path& directory,
                            ThreadPool& pool);

}  // namespace nibble
