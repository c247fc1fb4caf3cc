#include "checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/math.h"
#include "base/utf8.h"
#include "checkpoint/module_pattern.h"
#include "checkpoint/safetensors.h"
#include "nibble/error.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

Error Invalid(const std::string& where, const std::string& what) {
  return Error(ErrorCode::kInvalidData, where + ": " + what);
}

// The error for a folder without model.safetensors; names the other weight files it holds.
Error NoWeights(const fs::path& directory) {
  std::string found;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("model-") && name.ends_with(".safetensors")) {
      return Error(ErrorCode::kNotFound,
                   fmt::format("{}: {} is missing, though shards such as {} are there; fetch it",
                               directory.string(), kIndexFile, name));
    }
    if (name.starts_with("consolidated") || name.ends_with(".bin") || name.ends_with(".pt")) {
      found = name;
    }
  }
  return Error(ErrorCode::kNotFound,
               fmt::format("{}: expected {} or {}{}", directory.string(), kSingleFile, kIndexFile,
                           found.empty() ? ", found neither"
                                         : fmt::format("; {} is another layout, which nibble does "
                                                       "not read",
                                                       Quoted(found))));
}

// What quantization_config says and nibble passes over, a line each.
void WarnOfWhatIsNotApplied(const QuantConfig& config, const std::string& where) {
  if (config.has_kv_cache_scheme) {
    LogWarning(
        "kv_cache_scheme_not_applied file={} effect=\"the cache has the type that was asked "
        "for; k_scale and v_scale are not read\"",
        where);
  }
  for (const std::vector<std::string>* patterns : {&config.targets, &config.ignore}) {
    for (const std::string& pattern : *patterns) {
      try {
        const ModulePattern understood(pattern);
      } catch (const Error& error) {
        LogWarning(
            "pattern_not_understood file={} reason=\"{}\" effect=\"none: the tensors tell "
            "what is quantized\"",
            where, error.what());
      }
    }
  }
}

using FileOfTensor = std::map<std::string, std::string, std::less<>>;

struct Index {
  FileOfTensor files;
  std::optional<int64_t> total_size;
};

Index ReadIndex(const fs::path& path) {
  const std::string where = path.string();
  const Json index = ReadJsonFile(where);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw Invalid(where, "expected an object \"weight_map\" from tensors to files");
  }
  Index result;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) {
      throw Invalid(where, fmt::format("weight_map: {}: expected a file name", Quoted(name)));
    }
    auto text = file.get<std::string>();
    // Shards must be in the directory of the index: any other path is a mistake or an attack.
    if (text.empty() || text == "." || text == ".." || text.find('/') != std::string::npos ||
        text.find('\0') != std::string::npos) {
      throw Invalid(where, fmt::format("weight_map: {}: {} is not a plain file name", Quoted(name),
                                       Quoted(text)));
    }
    result.files.emplace(name, std::move(text));
  }
  // Some old writers put a float here, or nothing: ignored unless it is an integer.
  const Json metadata = index.value("metadata", Json());
  const Json size = metadata.is_object() ? metadata.value("total_size", Json()) : Json();
  if (size.is_number_integer()) result.total_size = size.get<int64_t>();
  return result;
}

}  // namespace

struct Checkpoint::State {
  struct Place {
    size_t shard = 0;
    TensorInfo info;
    TensorView view;
    bool aligned = true;
  };

  fs::path directory;
  std::optional<FileOfTensor> index;
  ModelConfig config;
  std::optional<QuantConfig> quant_config;
  std::vector<MappedFile> shards;
  std::map<std::string, Place, std::less<>> places;
  std::optional<int64_t> declared_bytes;
  FileOfTensor strays;  // where a shard holds a tensor that the index does not place there
  int64_t total_bytes = 0;

  // Aligned copies, made on first use, of tensors in files whose header was not padded.
  std::mutex copies_mutex;
  std::map<std::string, Tensor, std::less<>> copies;  // guarded by copies_mutex

  void AddShard(const std::string& file);
  bool Belongs(const std::string& name, const std::string& file) const;
  std::optional<std::string> Disagreement(std::string_view name) const;
  const Place& Find(std::string_view name) const;
  TensorView View(std::string_view name);
  const MappedFile* MappingOf(const TensorView& view) const;
};

bool Checkpoint::State::Belongs(const std::string& name, const std::string& file) const {
  if (!index) return true;
  const auto listed = index->find(name);
  return listed != index->end() && listed->second == file;
}

void Checkpoint::State::AddShard(const std::string& file) {
  const fs::path path = directory / file;
  if (!fs::exists(path)) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: no such file, though {} names it; fetch the missing shard",
                            path.string(), kIndexFile));
  }
  const size_t shard = shards.size();
  shards.emplace_back(path);
  const std::span<const std::byte> bytes = shards.back().bytes();
  const SafetensorsHeader header =
      ParseSafetensorsHeader(bytes, static_cast<int64_t>(bytes.size()), path.string());
  bool misaligned = false;
  for (const SafetensorsEntry& entry : header.entries) {
    if (!Belongs(entry.name, file)) {
      strays[entry.name] = file;
      continue;
    }
    const int64_t offset = header.data_offset + entry.begin;  // the mapping itself is page-aligned
    const bool aligned = offset % DTypeSize(entry.dtype) == 0;
    misaligned |= !aligned;
    const int64_t size = entry.end - entry.begin;
    const TensorInfo info{std::string(entry.type_name()), entry.shape, size};
    const TensorView view(bytes.data() + offset, entry.dtype,
                          entry.foreign_type.empty() ? entry.shape : Shape{size});
    places.emplace(entry.name, Place{shard, info, view, aligned});
    total_bytes += size;
  }
  if (misaligned) {
    LogWarning("misaligned_shard file={} effect=\"its tensors are copied to memory when used\"",
               path.string());
  }
}

std::optional<std::string> Checkpoint::State::Disagreement(std::string_view name) const {
  if (!index || places.contains(name)) return std::nullopt;
  const auto listed = index->find(name);
  const auto stray = strays.find(name);
  if (listed != index->end()) {
    return fmt::format(
        "{}: tensor {} should be in {}, {}", (directory / kIndexFile).string(), Quoted(name),
        listed->second,
        stray == strays.end() ? "which lacks it; fetch it again" : "it is in " + stray->second);
  }
  if (stray == strays.end()) return std::nullopt;
  return fmt::format("{}: tensor {} is not listed in {}", (directory / stray->second).string(),
                     Quoted(name), kIndexFile);
}

const Checkpoint::State::Place& Checkpoint::State::Find(std::string_view name) const {
  const auto found = places.find(name);
  if (found == places.end()) {
    if (const auto why = Disagreement(name)) throw Error(ErrorCode::kInvalidData, *why);
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: no tensor {}", directory.string(), Quoted(name)));
  }
  return found->second;
}

TensorView Checkpoint::State::View(std::string_view name) {
  const Place& place = Find(name);
  if (place.aligned) return place.view;
  const std::scoped_lock lock(copies_mutex);
  auto copy = copies.find(name);
  if (copy == copies.end()) copy = copies.emplace(name, Tensor::Copy(place.view)).first;
  return copy->second.view();
}

const MappedFile* Checkpoint::State::MappingOf(const TensorView& view) const {
  for (const MappedFile& shard : shards) {
    const std::byte* begin = shard.bytes().data();
    if (std::less_equal<>()(begin, view.data()) &&
        std::less_equal<>()(view.data() + view.size_bytes(), begin + shard.bytes().size())) {
      return &shard;
    }
  }
  return nullptr;  // a copy
}

Checkpoint::Checkpoint(const fs::path& directory) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.directory = directory;
  std::error_code failure;
  if (!fs::is_directory(directory, failure)) {
    throw Error(ErrorCode::kNotFound, directory.string() + ": expected a model directory, found " +
                                          (fs::exists(directory, failure) ? "a file" : "nothing"));
  }
  state.config = ReadModelConfig(directory);
  const std::string config_path = (directory / "config.json").string();
  state.quant_config = ParseQuantConfig(state.config.raw, config_path);
  if (state.quant_config) WarnOfWhatIsNotApplied(*state.quant_config, config_path);

  // As in transformers, the single file takes precedence over the index.
  if (fs::exists(directory / kSingleFile)) {
    state.AddShard(kSingleFile);
    return;
  }
  const fs::path index_path = directory / kIndexFile;
  if (!fs::exists(index_path)) throw NoWeights(directory);
  Index index = ReadIndex(index_path);
  state.declared_bytes = index.total_size;
  std::set<std::string> files;
  for (const auto& [name, file] : index.files) files.insert(file);
  state.index = std::move(index.files);
  state.shards.reserve(files.size());
  for (const std::string& file : files) state.AddShard(file);
  for (const std::string& name : lost()) {
    LogDebug("tensor_lost {}", *state.Disagreement(name));
  }
  for (const std::string& name : unlisted()) {
    LogDebug("tensor_passed_over {}", *state.Disagreement(name));
  }
}

Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;

const fs::path& Checkpoint::directory() const { return state_->directory; }
const ModelConfig& Checkpoint::config() const { return state_->config; }
const std::optional<QuantConfig>& Checkpoint::quant_config() const { return state_->quant_config; }
int64_t Checkpoint::total_bytes() const { return state_->total_bytes; }
std::optional<int64_t> Checkpoint::declared_bytes() const { return state_->declared_bytes; }
int64_t Checkpoint::num_shards() const { return static_cast<int64_t>(state_->shards.size()); }

const std::vector<MappedFile>& Checkpoint::shards() const { return state_->shards; }

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(state_->places.size());
  for (const auto& [name, place] : state_->places) names.push_back(name);
  return names;
}

std::vector<std::string> Checkpoint::lost() const {
  std::vector<std::string> names;
  if (!state_->index) return names;
  for (const auto& [name, file] : *state_->index) {
    if (!Has(name)) names.push_back(name);
  }
  return names;
}

std::vector<std::string> Checkpoint::unlisted() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : state_->strays) {
    if (!state_->index->contains(name)) names.push_back(name);
  }
  return names;
}

std::optional<std::string> Checkpoint::Disagreement(std::string_view name) const {
  return state_->Disagreement(name);
}

bool Checkpoint::Has(std::string_view name) const { return state_->places.contains(name); }

const TensorInfo& Checkpoint::Info(std::string_view name) const { return state_->Find(name).info; }

TensorView Checkpoint::Get(std::string_view name) const { return state_->View(name); }

TensorView Checkpoint::Get(std::string_view name, const Shape& shape) const {
  const State::Place& place = state_->Find(name);
  const std::string where =
      fmt::format("{}: tensor {}", state_->shards[place.shard].path().string(), Quoted(name));
  if (place.info.shape != shape) {
    throw Invalid(where, fmt::format("expected shape {}, found {}", shape.ToString(),
                                     place.info.shape.ToString()));
  }
  if (!IsFloat(place.view.dtype())) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: expected BF16, F16 or F32, found {}", where, place.info.dtype));
  }
  return state_->View(name);
}

bool Checkpoint::IsPacked(std::string_view module) const {
  return Has(std::string(module) + ".weight_packed");
}

PackedView Checkpoint::GetPacked(std::string_view module, int64_t rows, int64_t cols) const {
  const std::string where =
      fmt::format("{}: {}", state_->directory.string(), Utf8Prefix(module, 200));
  const std::optional<QuantConfig>& quant_config = state_->quant_config;
  if (!quant_config) {
    throw Invalid(where, "packed, though config.json has no quantization_config");
  }
  const QuantConfig& config = *quant_config;
  const int64_t group_size = config.group_size == -1 ? cols : config.group_size;
  if (cols % group_size != 0) {
    throw Invalid(where,
                  fmt::format("{} columns are not a multiple of group_size {}", cols, group_size));
  }
  const int64_t groups = cols / group_size;
  const int64_t per_word = 32 / config.bits;

  // The tensor if it has this shape and one of these types.
  const auto get = [&](const char* suffix, std::initializer_list<DType> types, const Shape& shape) {
    const std::string name = fmt::format("{}.{}", module, suffix);
    const TensorInfo& info = state_->Find(name).info;
    std::vector<std::string_view> names;
    for (const DType type : types) names.push_back(DTypeName(type));
    if (info.shape != shape || std::find(names.begin(), names.end(), info.dtype) == names.end()) {
      throw Invalid(where,
                    fmt::format("{}: expected {} {}, found {} {}", suffix, fmt::join(names, " or "),
                                shape.ToString(), info.dtype, info.shape.ToString()));
    }
    return state_->View(name);
  };

  PackedView result;
  result.bits = config.bits;
  result.rows = rows;
  result.cols = cols;
  result.group_size = group_size;
  result.packed = get("weight_packed", {DType::kI32}, {rows, CeilDiv(cols, per_word)});
  result.scales = get("weight_scale", {DType::kBF16, DType::kF16, DType::kF32}, {rows, groups});

  const Shape stored = ReadWeightShape(get("weight_shape", {DType::kI64, DType::kI32}, {2}));
  if (stored != Shape{rows, cols}) {
    throw Invalid(where, fmt::format("weight_shape: expected {}, found {}",
                                     Shape{rows, cols}.ToString(), stored.ToString()));
  }

  const auto present = [&](const char* suffix) {
    return Has(fmt::format("{}.{}", module, suffix));
  };
  if (config.symmetric && present("weight_zero_point")) {
    throw Invalid(where, "weight_zero_point is there, though quantization_config says symmetric");
  }
  if (!config.symmetric) {
    result.zero_point = get("weight_zero_point", {DType::kI32}, {CeilDiv(rows, per_word), groups});
  }
  if (config.act_order != ActOrder::kGroup && present("weight_g_idx")) {
    throw Invalid(where, "weight_g_idx is there, though quantization_config has no actorder group");
  }
  if (config.act_order == ActOrder::kGroup) {
    const TensorView g_idx = get("weight_g_idx", {DType::kI32}, {cols});
    const std::span<const int32_t> groups_of = g_idx.As<int32_t>();
    // -1 is compressed-tensors' value for "never set": groups are consecutive columns.
    const bool unset = std::find(groups_of.begin(), groups_of.end(), -1) != groups_of.end();
    for (size_t col = 0; !unset && col < groups_of.size(); ++col) {
      if (groups_of[col] < 0 || groups_of[col] >= groups) {
        throw Invalid(
            where, fmt::format("weight_g_idx: column {}: expected a group below {}, found {}", col,
                               groups, groups_of[col]));
      }
    }
    if (!unset) result.g_idx = g_idx;
  }
  return result;
}

Shape ReadWeightShape(const TensorView& weight_shape) {
  if (weight_shape.dtype() == DType::kI64) return Shape(weight_shape.As<int64_t>());
  const std::span<const int32_t> dims = weight_shape.As<int32_t>();
  return {dims[0], dims[1]};
}

void Checkpoint::WillNeed(const TensorView& view) const {
  if (const MappedFile* file = state_->MappingOf(view)) file->WillNeed(view.bytes());
}

void Checkpoint::DontNeed(const TensorView& view) const {
  if (const MappedFile* file = state_->MappingOf(view)) file->DontNeed(view.bytes());
}

}  // namespace nibble
