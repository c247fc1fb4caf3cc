#include "text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "base/utf8.h"
#include "nibble_bridge.h"
#include "text/bridge_call.h"
#include "text/tokenizer_config.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using BridgeTokenizer = rust::Box<bridge::Tokenizer>;

rust::Str Str(std::string_view text) { return {text.data(), text.size()}; }

rust::Slice<const uint8_t> Bytes(const MappedFile& file) {
  return {reinterpret_cast<const uint8_t*>(file.bytes().data()), file.bytes().size()};
}

BridgeTokenizer ReadJson(const fs::path& file) {
  const MappedFile mapped(file);
  return BridgeCall(file.string(), [&] { return bridge::tokenizer_from_json(Bytes(mapped)); });
}

BridgeTokenizer ReadSentencePiece(const fs::path& file, const TokenizerConfig& config) {
  const MappedFile mapped(file);
  bridge::SentencePieceOptions options;
  options.legacy = config.legacy.value_or(true);
  options.add_prefix_space =
      static_cast<int8_t>(config.add_prefix_space ? *config.add_prefix_space : -1);
  return BridgeCall(file.string(),
                    [&] { return bridge::tokenizer_from_sentencepiece(Bytes(mapped), options); });
}

BridgeTokenizer ReadGpt2(const fs::path& directory, const TokenizerConfig& config) {
  if (!config.tokenizer_class.empty() && !config.tokenizer_class.starts_with("GPT2Tokenizer")) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: vocab.json and merges.txt of a {}; nibble reads those of GPT-2 "
                            "alone: supply a tokenizer.json",
                            directory.string(), config.tokenizer_class));
  }
  const MappedFile vocab(directory / "vocab.json");
  const MappedFile merges(directory / "merges.txt");
  return BridgeCall(directory.string(),
                    [&] { return bridge::tokenizer_from_gpt2(Bytes(vocab), Bytes(merges)); });
}

void AddTokens(bridge::Tokenizer& tokenizer, const TokenizerConfig& config,
               const std::string& where) {
  std::vector<bridge::AddedToken> tokens;
  for (const TokenizerConfig::AddedToken& token : config.added_tokens) {
    tokens.push_back({rust::String(token.content), token.special, token.normalized, token.lstrip,
                      token.rstrip, token.single_word});
  }
  BridgeCall(where, [&] {
    tokenizer.add_tokens(rust::Slice<const bridge::AddedToken>(tokens.data(), tokens.size()));
  });
  for (const TokenizerConfig::AddedToken& token : config.added_tokens) {
    if (!token.id) continue;
    const int64_t id = BridgeCall(where, [&] { return tokenizer.token_to_id(Str(token.content)); });
    if (id == *token.id) continue;
    throw Error(
        ErrorCode::kInvalidData,
        fmt::format("{}: \"{}\" has id {} here, but {} in added_tokens.json beside it; one of "
                    "the two files belongs to another model",
                    where, token.content, id, *token.id));
  }
}

// BOS and EOS as the Llama tokenizers of transformers add them.
void Surround(bridge::Tokenizer& tokenizer, const TokenizerConfig& config,
              const std::string& where) {
  const auto token = [&](bool wanted, const char* name) -> std::string {
    if (!wanted) return "";
    const std::optional<std::string> content = config.SpecialToken(name);
    if (content && !content->empty()) return *content;
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: add_{} is set, but there is no {}", where, name, name));
  };
  const std::string begin = token(config.add_bos_token.value_or(true), "bos_token");
  const std::string end = token(config.add_eos_token.value_or(false), "eos_token");
  BridgeCall(where, [&] { tokenizer.surround(Str(begin), Str(end)); });
}

// The defaults of the Llama family, for a file without a configuration.
TokenizerConfig ConfigOfFileAlone() {
  TokenizerConfig config;
  config.special_tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  return config;
}

[[noreturn]] void ThrowNoTokenizer(const fs::path& directory) {
  std::string known =
      "tokenizer.json, tokenizer.model (SentencePiece) or vocab.json and merges.txt";
  if (fs::is_directory(directory)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
      const std::string name = entry.path().filename().string();
      if (name != "tekken.json" && entry.path().extension() != ".tiktoken") continue;
      throw Error(
          ErrorCode::kUnsupported,
          fmt::format("{}: nibble does not read {} vocabularies; expected {}",
                      entry.path().string(), name == "tekken.json" ? "Tekken" : "tiktoken", known));
    }
  }
  throw Error(ErrorCode::kNotFound,
              fmt::format("{}: no tokenizer; expected {}", directory.string(), known));
}

}  // namespace

struct Tokenizer::State {
  State(BridgeTokenizer tokenizer, std::string from, const TokenizerConfig& config)
      : bridge(std::move(tokenizer)), where(std::move(from)) {
    BridgeCall(where, [&] {
      id_limit = bridge->id_limit();
      for (const uint32_t id : bridge->special_ids()) {
        special_ids.push_back(static_cast<int32_t>(id));
      }
    });
    std::sort(special_ids.begin(), special_ids.end());
    bos_id = IdOf(config.SpecialToken("bos_token"));
    eos_id = IdOf(config.SpecialToken("eos_token"));
  }

  std::optional<int32_t> IdOf(const std::optional<std::string>& token) const {
    if (!token) return std::nullopt;
    const int64_t id = BridgeCall(where, [&] { return bridge->token_to_id(Str(*token)); });
    return id < 0 ? std::nullopt : std::optional(static_cast<int32_t>(id));
  }

  BridgeTokenizer bridge;
  std::string where;  // the file, for messages
  int64_t id_limit = 0;
  std::vector<int32_t> special_ids;  // sorted
  std::optional<int32_t> bos_id;
  std::optional<int32_t> eos_id;
};

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::Load(const fs::path& directory) {
  const TokenizerConfig config = ReadTokenizerConfig(directory);
  fs::path file = directory / "tokenizer.json";
  const bool is_json = fs::exists(file);
  const bool is_gpt2 = fs::exists(directory / "vocab.json") && fs::exists(directory / "merges.txt");
  if (!is_json) file = directory / "tokenizer.model";
  const bool is_sentencepiece = !is_json && fs::exists(file);
  if (!is_json && !is_sentencepiece && is_gpt2) file = directory / "vocab.json";
  if (!is_json && !is_sentencepiece && !is_gpt2) ThrowNoTokenizer(directory);

  BridgeTokenizer tokenizer = is_json            ? ReadJson(file)
                              : is_sentencepiece ? ReadSentencePiece(file, config)
                                                 : ReadGpt2(directory, config);
  AddTokens(*tokenizer, config, file.string());
  if (is_sentencepiece || config.IsLlamaFamily()) Surround(*tokenizer, config, file.string());
  Tokenizer result;
  result.state_ = std::make_unique<State>(std::move(tokenizer), file.string(), config);
  return result;
}

Tokenizer Tokenizer::LoadFile(const fs::path& file) {
  const TokenizerConfig config = ConfigOfFileAlone();
  const bool is_json = file.extension() == ".json";
  BridgeTokenizer tokenizer = is_json ? ReadJson(file) : ReadSentencePiece(file, config);
  if (!is_json) Surround(*tokenizer, config, file.string());
  Tokenizer result;
  result.state_ = std::make_unique<State>(std::move(tokenizer), file.string(), config);
  return result;
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, bool add_special_tokens) const {
  const Utf8Scan scan = ScanUtf8(text);
  if (scan.valid_bytes != text.size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the text to encode is not valid UTF-8 at byte {}", scan.valid_bytes));
  }
  const rust::Vec<uint32_t> ids = BridgeCall(
      state_->where, [&] { return state_->bridge->encode(Str(text), add_special_tokens); });
  return {ids.begin(), ids.end()};
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  // A negative id becomes a large unsigned one, which is skipped like any other unknown id.
  const rust::Slice<const uint32_t> unsigned_ids(reinterpret_cast<const uint32_t*>(ids.data()),
                                                 ids.size());
  return std::string(BridgeCall(
      state_->where, [&] { return state_->bridge->decode(unsigned_ids, skip_special_tokens); }));
}

int64_t Tokenizer::vocab_size() const { return state_->id_limit; }

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  if (!IsValidUtf8(token)) return std::nullopt;
  return state_->IdOf(std::string(token));
}

std::optional<std::string> Tokenizer::IdToToken(int32_t id) const {
  if (id < 0 || id >= state_->id_limit) return std::nullopt;
  std::string token(BridgeCall(
      state_->where, [&] { return state_->bridge->id_to_token(static_cast<uint32_t>(id)); }));
  return token.empty() ? std::nullopt : std::optional(std::move(token));
}

std::optional<int32_t> Tokenizer::bos_id() const { return state_->bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return state_->eos_id; }

bool Tokenizer::IsSpecial(int32_t id) const {
  return std::binary_search(state_->special_ids.begin(), state_->special_ids.end(), id);
}

bool Tokenizer::BeginsWithTwoBos(std::span<const int32_t> ids) const {
  return state_->bos_id && ids.size() >= 2 && ids[0] == *state_->bos_id && ids[1] == ids[0];
}

void WarnOfTwoBos(std::string_view source, int64_t count, int64_t total) {
  if (count == 0) return;
  LogWarning(
      "two_bos source=\"{}\" texts={} of={} effect=\"the model sees BOS twice, which it was not "
      "trained on\" next=\"take the BOS token out of the text: it is added anyway\"",
      source, count, total);
}

}  // namespace nibble
