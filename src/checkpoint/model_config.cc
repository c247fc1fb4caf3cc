#include "checkpoint/model_config.h"

#include <fmt/format.h>

#include <cmath>

#include "base/utf8.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// Far above any model, and products of two do not overflow.
constexpr int64_t kMaxDimension = int64_t{1} << 24;
constexpr int64_t kMaxCount = int64_t{1} << 16;  // layers, heads, experts
constexpr auto kMaxParameters = static_cast<__int128>(1'000'000'000'000'000);

// One document and its name, for error messages.
class Reader {
 public:
  Reader(const Json& config, const std::string& where) : config_(config), where_(where) {}

  int64_t Count(const char* key, int64_t maximum) const {
    return InRange(key, GetRequired<int64_t>(config_, key, where_), 1, maximum);
  }

  int64_t InRange(const char* key, int64_t value, int64_t minimum, int64_t maximum) const {
    if (value < minimum || value > maximum) {
      throw Invalid(fmt::format("{}: expected {} to {}, found {}", key, minimum, maximum, value));
    }
    return value;
  }

  double Positive(const char* key, double value, double maximum) const {
    if (!(value > 0) || !(value <= maximum)) {
      throw Invalid(
          fmt::format("{}: expected a number above 0 and up to {}, found {}", key, maximum, value));
    }
    return value;
  }

  // The member, or null when absent or JSON null.
  const Json* Find(const char* key) const {
    const auto found = config_.find(key);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }

  Error Invalid(const std::string& what) const {
    return Error(ErrorCode::kInvalidData, where_ + ": " + what);
  }
  Error Unsupported(const std::string& what) const {
    return Error(ErrorCode::kUnsupported, where_ + ": " + what);
  }

 private:
  const Json& config_;
  const std::string& where_;
};

std::optional<DType> ReadDType(const Json& config, const std::string& where) {
  const char* key =
      config.contains("dtype") && !config["dtype"].is_null() ? "dtype" : "torch_dtype";
  if (!config.contains(key) || config[key].is_null()) return std::nullopt;
  auto name = GetRequired<std::string>(config, key, where);
  if (name.starts_with("torch.")) name.erase(0, 6);
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16") return DType::kF16;
  if (name == "float32") return DType::kF32;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: {}: expected bfloat16, float16 or float32, found {}", where, key,
                          Quoted(name)));
}

// transformers 4: rope_theta, and rope_scaling null or a dict; transformers 5: both in one dict,
// rope_parameters. A file may have several; every kind of scaling must be the default.
double ReadRopeTheta(const Json& config, const Reader& reader, const std::string& where) {
  constexpr double kFamilyDefault = 1e6;
  double theta = GetOr<double>(config, "rope_theta", kFamilyDefault, where);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = reader.Find(key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) throw reader.Invalid(fmt::format("{}: expected an object", key));
    const std::string inside = where + ": " + key;
    for (const char* type_key : {"type", "rope_type"}) {
      const auto type = GetOr<std::string>(*rope, type_key, "default", inside);
      if (type != "default") {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: {}: nibble knows the default rotary embedding only, found {}",
                                inside, type_key, Quoted(type)));
      }
    }
    if (const auto part = GetOr<double>(*rope, "partial_rotary_factor", 1.0, inside); part != 1.0) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: partial_rotary_factor: expected 1, found {}", inside, part));
    }
    for (const auto& [name, value] : rope->items()) {
      if (value.is_object()) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: {}: one setting for all layers is supported, not one per kind",
                                inside, Quoted(name)));
      }
    }
    theta = GetOr<double>(*rope, "rope_theta", theta, inside);
  }
  return reader.Positive("rope_theta", theta, 1e15);
}

int64_t ReadTokenId(const Json& value, const char* key, int64_t vocab_size, const Reader& reader) {
  if (!value.is_number_integer()) {
    throw reader.Invalid(fmt::format("{}: expected token ids", key));
  }
  if (value.is_number_unsigned() && value.get<uint64_t>() >= static_cast<uint64_t>(vocab_size)) {
    throw reader.Invalid(fmt::format("{}: token {} lies outside the vocabulary of {}", key,
                                     value.get<uint64_t>(), vocab_size));
  }
  return reader.InRange(key, value.get<int64_t>(), 0, vocab_size - 1);
}

__int128 CountParameters(const ModelConfig& c) {
  using Wide = __int128;
  const Wide hidden = c.hidden_size;
  const Wide attention = hidden * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads);
  const Wide experts = 3 * hidden * c.intermediate_size * c.num_experts;
  const Wide layer = attention + hidden * c.num_experts + experts + 2 * hidden;
  const Wide tables = hidden * c.vocab_size * (c.tie_word_embeddings ? 1 : 2);
  return layer * c.num_layers + tables + hidden;
}

}  // namespace

int64_t ModelConfig::num_parameters() const { return static_cast<int64_t>(CountParameters(*this)); }

ModelConfig ParseModelConfig(const Json& config, const std::string& where) {
  const auto model_type = GetRequired<std::string>(config, "model_type", where);
  const Reader reader(config, where);
  const auto activation = GetOr<std::string>(config, "hidden_act", "silu", where);
  if (activation != "silu") {
    throw reader.Unsupported(
        fmt::format("hidden_act: expected silu, found {}", Quoted(activation)));
  }

  ModelConfig result;
  result.where = where;
  result.model_type = model_type;
  result.vocab_size = reader.Count("vocab_size", kMaxDimension);
  result.hidden_size = reader.Count("hidden_size", kMaxDimension);
  result.intermediate_size = reader.Count("intermediate_size", kMaxDimension);
  result.num_layers = reader.Count("num_hidden_layers", kMaxCount);
  result.num_heads = reader.Count("num_attention_heads", kMaxCount);
  result.num_kv_heads = reader.Find("num_key_value_heads") == nullptr
                            ? result.num_heads
                            : reader.Count("num_key_value_heads", kMaxCount);
  result.num_experts = reader.Count("num_local_experts", kMaxCount);
  result.num_experts_per_token = reader.Count("num_experts_per_tok", kMaxCount);
  result.max_positions = reader.Find("max_position_embeddings") == nullptr
                             ? 131072  // the family's default
                             : reader.Count("max_position_embeddings", int64_t{1} << 40);
  if (reader.Find("sliding_window") != nullptr) {
    result.sliding_window = reader.Count("sliding_window", int64_t{1} << 40);
  }
  if (result.num_heads % result.num_kv_heads != 0) {
    throw reader.Invalid(
        fmt::format("num_attention_heads {} is not a multiple of num_key_value_heads {}",
                    result.num_heads, result.num_kv_heads));
  }
  if (result.num_experts_per_token > result.num_experts) {
    throw reader.Invalid(fmt::format("num_experts_per_tok {} exceeds num_local_experts {}",
                                     result.num_experts_per_token, result.num_experts));
  }
  if (reader.Find("head_dim") != nullptr) {
    result.head_dim = reader.Count("head_dim", kMaxCount);
  } else if (result.hidden_size % result.num_heads == 0) {
    result.head_dim = result.hidden_size / result.num_heads;
  } else {
    throw reader.Invalid(
        fmt::format("hidden_size {} is not a multiple of num_attention_heads {}, and "
                    "head_dim is missing",
                    result.hidden_size, result.num_heads));
  }
  if (result.head_dim % 2 != 0) {
    throw reader.Invalid(
        fmt::format("head_dim: rotary embedding needs an even number, found {}", result.head_dim));
  }
  result.rope_theta = ReadRopeTheta(config, reader, where);
  result.rms_norm_eps =
      reader.Positive("rms_norm_eps", GetOr<double>(config, "rms_norm_eps", 1e-5, where), 1.0);
  result.tie_word_embeddings = GetOr<bool>(config, "tie_word_embeddings", false, where);
  result.dtype = ReadDType(config, where);
  if (const Json* bos = reader.Find("bos_token_id")) {
    result.bos_token_id = ReadTokenId(*bos, "bos_token_id", result.vocab_size, reader);
  }
  if (const Json* eos = reader.Find("eos_token_id")) {
    const Json list = eos->is_array() ? *eos : Json::array({*eos});
    for (const Json& id : list) {
      result.eos_token_ids.push_back(ReadTokenId(id, "eos_token_id", result.vocab_size, reader));
    }
  }
  if (CountParameters(result) > kMaxParameters) {
    throw reader.Invalid("the sizes give more than 10^15 parameters");
  }
  result.raw = config;
  return result;
}

ModelConfig ReadModelConfig(const std::filesystem::path& directory) {
  const std::string path = (directory / "config.json").string();
  if (!std::filesystem::exists(path)) {
    throw Error(ErrorCode::kNotFound,
                path + ": no such file; expected a Hugging Face model directory");
  }
  return ParseModelConfig(ReadJsonFile(path), path);
}

}  // namespace nibble
