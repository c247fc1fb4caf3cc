#include "tools/synthetic_mixtral.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/float16.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "checkpoint/checkpoint_writer.h"
#include "checkpoint/model_config.h"
#include "checkpoint/quant_config.h"
#include "checkpoint/safetensors.h"
#include "model/tensors.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr char kConfig[] = "synthetic config.json";
constexpr int64_t kPieceBytes = int64_t{4} << 20;  // one unit of work: generated, then written

// A counter-based generator (a hash of the counter with good avalanche): any 64-bit word of the
// stream, without the ones before it.
uint64_t RandomWord(uint64_t key, uint64_t counter) {
  uint64_t z = key + counter * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t KeyOf(const std::string& name, uint64_t seed) {
  uint64_t key = RandomWord(seed, 0);
  for (const char c : name) key = RandomWord(key, static_cast<unsigned char>(c));
  return key;
}

// The standard normal quantile of p by bisecting the distribution function: slow, exact, used 65536
// times.
double NormalQuantile(double p) {
  double low = -6;
  double high = 6;
  for (int i = 0; i < 40; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return low;
}

// 65536 equally likely values: sixteen random bits choose one, two bytes in for two bytes out.
std::vector<uint16_t> ValueTable(const SyntheticTensor& tensor) {
  static const std::vector<float> normal = [] {
    std::vector<float> values(65536);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(NormalQuantile((static_cast<double>(i) + 0.5) / 65536.0));
    }
    return values;
  }();
  std::vector<uint16_t> table(65536);
  const auto sigma = static_cast<float>(tensor.sigma);
  for (size_t i = 0; i < table.size(); ++i) {
    const float unit = tensor.content == Content::kNormal ? normal[i]
                       : tensor.content == Content::kScales
                           ? 0.5f + static_cast<float>(i) / 65536.0f
                           : 1.0f;
    table[i] = BFloat16(unit * sigma).bits();
  }
  return table;
}

void FillFromTable(const std::vector<uint16_t>& table, uint64_t key, int64_t begin,
                   std::span<std::byte> out) {
  for (size_t i = 0; i < out.size(); i += 8) {
    const uint64_t bits = RandomWord(key, static_cast<uint64_t>(begin) / 8 + i / 8);
    const std::array<uint16_t, 4> values = {table[bits & 0xffff], table[(bits >> 16) & 0xffff],
                                            table[(bits >> 32) & 0xffff], table[bits >> 48]};
    std::memcpy(out.data() + i, values.data(), std::min<size_t>(8, out.size() - i));
  }
}

void FillBits(uint64_t key, int64_t begin, std::span<std::byte> out) {
  for (size_t i = 0; i < out.size(); i += 8) {
    const uint64_t bits = RandomWord(key, static_cast<uint64_t>(begin) / 8 + i / 8);
    std::memcpy(out.data() + i, &bits, std::min<size_t>(8, out.size() - i));
  }
}

class Planner {
 public:
  explicit Planner(const SyntheticOptions& options) : options_(options) {}

  void Norm(const std::string& name) {
    plan_.push_back({name, DType::kBF16, {options_.shape.hidden}, Content::kOnes, 1, {}});
  }

  void Dense(const std::string& name, int64_t rows, int64_t cols, double sigma) {
    plan_.push_back({name, DType::kBF16, {rows, cols}, Content::kNormal, sigma, {}});
  }

  void Linear(const std::string& module, int64_t rows, int64_t cols) {
    const double sigma = 1 / std::sqrt(static_cast<double>(cols));
    if (!options_.packed) return Dense(module + ".weight", rows, cols, sigma);
    constexpr double kCodeDeviation = 4.61;  // of the integers -8 … 7, equally likely
    plan_.push_back(
        {module + ".weight_packed", DType::kI32, {rows, cols / 8}, Content::kBits, 1, {}});
    plan_.push_back({module + ".weight_scale",
                     DType::kBF16,
                     {rows, cols / options_.group_size},
                     Content::kScales,
                     sigma / kCodeDeviation,
                     {}});
    plan_.push_back({module + ".weight_shape", DType::kI64, {2}, Content::kShape, 1, {rows, cols}});
  }

  std::vector<SyntheticTensor> Take() { return std::move(plan_); }

 private:
  const SyntheticOptions& options_;
  std::vector<SyntheticTensor> plan_;
};

void CheckOptions(const SyntheticOptions& options) {
  const SyntheticShape& s = options.shape;
  const auto require = [](bool good, const std::string& message) {
    if (!good) throw Error(ErrorCode::kInvalidArgument, message);
  };
  for (const auto& [name, value] : {std::pair{"hidden", s.hidden},
                                    {"intermediate", s.intermediate},
                                    {"layers", s.layers},
                                    {"heads", s.heads},
                                    {"kv-heads", s.kv_heads},
                                    {"head-dim", s.head_dim},
                                    {"experts", s.experts},
                                    {"top-k", s.experts_per_token},
                                    {"vocab", s.vocab},
                                    {"group-size", options.group_size},
                                    {"max-shard-size", options.max_shard_bytes}}) {
    require(value > 0, fmt::format("--{}: expected a positive number, found {}", name, value));
  }
  require(s.heads % s.kv_heads == 0,
          fmt::format("--heads {} is not a multiple of --kv-heads {}", s.heads, s.kv_heads));
  require(s.head_dim % 2 == 0, fmt::format("--head-dim {} is odd", s.head_dim));
  require(s.experts_per_token <= s.experts,
          fmt::format("--top-k {} is more than --experts {}", s.experts_per_token, s.experts));
  for (const int64_t cols : {s.hidden, s.intermediate, s.heads * s.head_dim}) {
    require(!options.packed || (cols % options.group_size == 0 && cols % 8 == 0),
            fmt::format("a linear of {} columns has no whole groups of {}; choose another shape or "
                        "--group-size",
                        cols, options.group_size));
  }
}

Json ConfigJson(const SyntheticOptions& options) {
  const SyntheticShape& s = options.shape;
  Json config = {{"architectures", {"MixtralForCausalLM"}},
                 {"bos_token_id", 1},
                 {"eos_token_id", 2},
                 {"head_dim", s.head_dim},
                 {"hidden_act", "silu"},
                 {"hidden_size", s.hidden},
                 {"intermediate_size", s.intermediate},
                 {"max_position_embeddings", 32768},
                 {"model_type", "mixtral"},
                 {"num_attention_heads", s.heads},
                 {"num_experts_per_tok", s.experts_per_token},
                 {"num_hidden_layers", s.layers},
                 {"num_key_value_heads", s.kv_heads},
                 {"num_local_experts", s.experts},
                 {"rms_norm_eps", 1e-05},
                 {"rope_theta", 1000000.0},
                 {"sliding_window", nullptr},
                 {"tie_word_embeddings", false},
                 {"torch_dtype", "bfloat16"},
                 {"vocab_size", s.vocab}};
  if (options.packed) {
    QuantConfig quant;
    quant.group_size = options.group_size;
    for (const TensorSpec& tensor : TensorsOf(ParseModelConfig(config, kConfig))) {
      if (tensor.is_linear() && tensor.tap == Tap::kNone) quant.ignore.push_back(tensor.module);
    }
    config["quantization_config"] = QuantConfigToJson(quant);
  }
  return config;
}

ModelConfig ConfigOf(const SyntheticOptions& options) {
  return ParseModelConfig(ConfigJson(options), kConfig);
}

// A file of known size, written at any offset by any thread; appears under its name only when
// whole.
class ShardFile {
 public:
  explicit ShardFile(std::filesystem::path path)
      : path_(std::move(path)),
        partial_(path_.string() + ".partial"),
        file_(File::OpenToUpdate(partial_)) {
    file_.Truncate(0);
  }
  ~ShardFile() {
    std::error_code ignored;
    if (file_.is_open()) std::filesystem::remove(partial_, ignored);
  }
  ShardFile(ShardFile&&) = delete;

  void Write(int64_t offset, std::span<const std::byte> bytes) { file_.WriteAt(bytes, offset); }

  void Commit() {
    file_.Flush();
    file_.Close();
    std::filesystem::rename(partial_, path_);
  }

 private:
  std::filesystem::path path_;
  std::filesystem::path partial_;
  File file_;
};

void WriteShard(const ShardPlan& shard, const std::map<std::string, SyntheticTensor>& tensors,
                uint64_t seed, const std::filesystem::path& path, ThreadPool& pool) {
  struct Piece {
    const SyntheticTensor* tensor;
    int64_t begin;  // in the tensor
    int64_t file_offset;
    int64_t bytes;
  };
  const auto header = std::as_bytes(std::span(shard.header));
  const SafetensorsHeader layout = ParseSafetensorsHeader(header, shard.size_bytes, shard.file);
  std::vector<Piece> pieces;
  for (const SafetensorsEntry& entry : layout.entries) {
    const int64_t size = entry.end - entry.begin;
    for (int64_t begin = 0; begin < size; begin += kPieceBytes) {
      pieces.push_back({&tensors.at(entry.name), begin, layout.data_offset + entry.begin + begin,
                        std::min(kPieceBytes, size - begin)});
    }
  }
  ShardFile file(path);
  file.Write(0, header);
  std::vector<std::vector<std::byte>> scratch(pool.num_threads());
  pool.ParallelFor(static_cast<int64_t>(pieces.size()), [&](int64_t index, int thread) {
    ThrowIfInterrupted();
    const Piece& piece = pieces[static_cast<size_t>(index)];
    std::vector<std::byte>& buffer = scratch[thread];
    buffer.resize(piece.bytes);
    FillTensor(*piece.tensor, seed, piece.begin, buffer);
    file.Write(piece.file_offset, buffer);
  });
  file.Commit();
}

}  // namespace

std::vector<SyntheticTensor> PlanTensors(const SyntheticOptions& options) {
  Planner planner(options);
  for (const TensorSpec& tensor : TensorsOf(ConfigOf(options))) {
    const std::string name = tensor.module + ".weight";
    if (tensor.is_vector) {
      planner.Norm(name);
    } else if (tensor.part == Part::kEmbedding) {
      planner.Dense(name, tensor.rows, tensor.cols, 1);
    } else if (tensor.tap == Tap::kNone) {
      planner.Dense(name, tensor.rows, tensor.cols,
                    1 / std::sqrt(static_cast<double>(tensor.cols)));
    } else {
      planner.Linear(tensor.module, tensor.rows, tensor.cols);
    }
  }
  return planner.Take();
}

void FillTensor(const SyntheticTensor& tensor, uint64_t seed, int64_t begin,
                std::span<std::byte> out) {
  const uint64_t key = KeyOf(tensor.name, seed);
  switch (tensor.content) {
    case Content::kBits:
      return FillBits(key, begin, out);
    case Content::kShape:
      std::memcpy(out.data(), reinterpret_cast<const std::byte*>(tensor.linear.data()) + begin,
                  out.size());
      return;
    case Content::kNormal:
    case Content::kScales:
    case Content::kOnes:
      return FillFromTable(ValueTable(tensor), key, begin, out);
  }
}

int64_t WriteSyntheticModel(const SyntheticOptions& options, const std::filesystem::path& directory,
                            ThreadPool& pool) {
  CheckOptions(options);
  const Json config = ConfigJson(options);
  std::vector<SyntheticTensor> plan = PlanTensors(options);  // rejects what nibble would reject
  std::filesystem::create_directories(directory);
  if (!std::filesystem::is_empty(directory)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: is not empty; name a new directory", directory.string()));
  }
  // Any tensor may go to any shard, so each is a unit of its own.
  std::map<std::string, SyntheticTensor> tensors;
  std::vector<UnitPlan> units;
  int64_t total = 0;
  for (SyntheticTensor& tensor : plan) {
    total += tensor.size_bytes();
    units.push_back({tensor.name, {{tensor.name, tensor.dtype, tensor.shape}}});
    tensors.emplace(tensor.name, std::move(tensor));
  }
  if (const int64_t available = FreeDiskBytes(directory); available < total) {
    throw Error(ErrorCode::kResourceExhausted,
                fmt::format("{}: needs {} bytes of disk, {} are free", directory.string(), total,
                            available));
  }

  Json weight_map = Json::object();
  for (const ShardPlan& shard : PlanShards(units, options.max_shard_bytes)) {
    WriteShard(shard, tensors, options.seed, directory / shard.file, pool);
    for (int64_t unit = shard.first_unit; unit < shard.last_unit; ++unit) {
      weight_map[units[unit].name] = shard.file;
    }
  }
  WriteTextFile(directory / "config.json", config.dump(2) + "\n");
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  WriteTextFile(directory / "model.safetensors.index.json", index.dump(2) + "\n");
  return total;
}

}  // namespace nibble
