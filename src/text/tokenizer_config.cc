#include "text/tokenizer_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <map>

namespace nibble {
namespace {

constexpr std::array kNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                               "pad_token", "cls_token", "mask_token"};
constexpr const char* kAdditional = "additional_special_tokens";

Json ReadIfPresent(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Json::object();
  Json document = ReadJsonFile(path.string());
  if (!document.is_object()) {
    throw Error(ErrorCode::kInvalidData, path.string() + ": expected an object");
  }
  return document;
}

std::optional<bool> Flag(const Json& config, const char* key, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return std::nullopt;
  return GetRequired<bool>(config, key, where);
}

// A token is written as a string, or as an object with its options.
std::string Content(const Json& token, const std::string& where) {
  if (token.is_string()) return token.get<std::string>();
  return GetRequired<std::string>(token, "content", where);
}

TokenizerConfig::AddedToken Special(const std::string& content) {
  return {.content = content, .special = true};
}

TokenizerConfig::AddedToken ReadAddedToken(const Json& token, const std::string& where) {
  TokenizerConfig::AddedToken added = {.content = Content(token, where)};
  if (!token.is_object()) return added;
  added.special = GetOr<bool>(token, "special", false, where);
  added.normalized = GetOr<bool>(token, "normalized", !added.special, where);
  added.lstrip = GetOr<bool>(token, "lstrip", false, where);
  added.rstrip = GetOr<bool>(token, "rstrip", false, where);
  added.single_word = GetOr<bool>(token, "single_word", false, where);
  return added;
}

// {"32000": {"content": …}, …}, in order of the ids.
std::vector<TokenizerConfig::AddedToken> ReadAddedTokens(const Json& config,
                                                         const std::string& where) {
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder == config.end() || !decoder->is_object()) return {};
  std::map<int32_t, TokenizerConfig::AddedToken> by_id;
  for (const auto& [key, token] : decoder->items()) {
    const std::string at = where + ": added_tokens_decoder: " + key;
    int32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) {
      throw Error(ErrorCode::kInvalidData, at + ": expected a token id");
    }
    by_id[id] = ReadAddedToken(token, at);
  }
  std::vector<TokenizerConfig::AddedToken> tokens;
  for (auto& [id, token] : by_id) tokens.push_back(std::move(token));
  return tokens;
}

// added_tokens.json: {"<|im_end|>": 32000, …}, in order of the ids. A token is special if it has a
// name in `special_tokens`; all are found in a text as they are written, as by the tokenizers these
// files were made for and by transformers 5.
std::vector<TokenizerConfig::AddedToken> ReadAddedTokenIds(const Json& file,
                                                           const std::string& where,
                                                           const Json& special_tokens) {
  const auto is_special = [&](const std::string& content) {
    for (const auto& [name, token] : special_tokens.items()) {
      if (token == content) return true;
      if (token.is_array() && std::find(token.begin(), token.end(), content) != token.end()) {
        return true;
      }
    }
    return false;
  };
  std::map<int32_t, TokenizerConfig::AddedToken> by_id;
  for (const auto& [content, value] : file.items()) {
    const int64_t id = GetRequired<int64_t>(file, content, where);
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: \"{}\": expected a token id, found {}", where, content, id));
    }
    by_id[static_cast<int32_t>(id)] = {
        .content = content, .special = is_special(content), .id = static_cast<int32_t>(id)};
  }
  std::vector<TokenizerConfig::AddedToken> tokens;
  for (auto& [id, token] : by_id) tokens.push_back(std::move(token));
  return tokens;
}

void ReadSpecialTokens(const Json& from, const std::string& where, Json& special_tokens) {
  for (const char* name : kNames) {
    const auto token = from.find(name);
    if (token == from.end() || token->is_null() || special_tokens.contains(name)) continue;
    special_tokens[name] = Content(*token, where + ": " + name);
  }
  const auto additional = from.find(kAdditional);
  if (additional == from.end() || !additional->is_array() || additional->empty() ||
      special_tokens.contains(kAdditional)) {
    return;
  }
  Json list = Json::array();
  for (const Json& token : *additional) list.push_back(Content(token, where + ": " + kAdditional));
  special_tokens[kAdditional] = std::move(list);
}

}  // namespace

bool TokenizerConfig::IsLlamaFamily() const {
  constexpr std::array kClasses = {"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer",
                                   "CodeLlamaTokenizerFast"};
  return std::find(kClasses.begin(), kClasses.end(), tokenizer_class) != kClasses.end();
}

std::optional<std::string> TokenizerConfig::SpecialToken(const std::string& name) const {
  const auto token = special_tokens.find(name);
  if (token == special_tokens.end() || !token->is_string()) return std::nullopt;
  return token->get<std::string>();
}

TokenizerConfig ReadTokenizerConfig(const std::filesystem::path& directory) {
  const std::string where = (directory / "tokenizer_config.json").string();
  const std::string map_where = (directory / "special_tokens_map.json").string();
  const Json file = ReadIfPresent(where);
  TokenizerConfig config;
  config.tokenizer_class = GetOr<std::string>(file, "tokenizer_class", "", where);
  if (config.tokenizer_class.empty() && !std::filesystem::exists(directory / "tokenizer.json") &&
      std::filesystem::exists(directory / "tokenizer.model")) {
    config.tokenizer_class = "LlamaTokenizer";
  }
  config.add_bos_token = Flag(file, "add_bos_token", where);
  config.add_eos_token = Flag(file, "add_eos_token", where);
  config.legacy = Flag(file, "legacy", where);
  config.add_prefix_space = Flag(file, "add_prefix_space", where);
  if (const auto chat_template = file.find("chat_template"); chat_template != file.end()) {
    config.chat_template = *chat_template;
  }
  ReadSpecialTokens(file, where, config.special_tokens);
  // Old checkpoints name the tokens only in special_tokens_map.json; a config that names one of
  // them names all.
  if (!file.contains("bos_token") && !file.contains("eos_token")) {
    ReadSpecialTokens(ReadIfPresent(map_where), map_where, config.special_tokens);
  }
  if (config.IsLlamaFamily()) {  // the defaults of the class
    for (const auto& [name, token] :
         {std::pair("bos_token", "<s>"), {"eos_token", "</s>"}, {"unk_token", "<unk>"}}) {
      if (!file.contains(name) && !config.special_tokens.contains(name)) {
        config.special_tokens[name] = token;
      }
    }
  }
  if (file.contains("added_tokens_decoder")) {
    config.added_tokens = ReadAddedTokens(file, where);
  } else {
    const std::string ids_where = (directory / "added_tokens.json").string();
    config.added_tokens =
        ReadAddedTokenIds(ReadIfPresent(ids_where), ids_where, config.special_tokens);
  }
  for (const auto& [name, token] : config.special_tokens.items()) {
    if (token.is_string()) config.added_tokens.push_back(Special(token.get<std::string>()));
    if (!token.is_array()) continue;
    for (const Json& one : token) config.added_tokens.push_back(Special(one.get<std::string>()));
  }
  return config;
}

}  // namespace nibble
