#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace nibble {

// What tokenizer_config.json says about a tokenizer, and beside it special_tokens_map.json and, of
// checkpoints older than added_tokens_decoder, added_tokens.json.
struct TokenizerConfig {
  // A token to add to the tokenizer, with the options of the `tokenizers` library.
  struct AddedToken {
    std::string content;
    bool special = false;
    bool normalized = false;
    bool lstrip = false;
    bool rstrip = false;
    bool single_word = false;
    // Where added_tokens.json says one: the model was trained on it.
    std::optional<int32_t> id = {};
  };

  std::string tokenizer_class;  // empty: absent
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<bool> legacy;
  std::optional<bool> add_prefix_space;
  // "bos_token" → "<s>", …; "additional_special_tokens" → a list. The names a chat template sees.
  Json special_tokens = Json::object();
  std::vector<AddedToken> added_tokens;  // by id, then the special tokens
  Json chat_template;                    // null, a string, or a list of {name, template}

  // The classes that put BOS and EOS around a text by add_bos_token and add_eos_token, whatever the
  // post-processor of tokenizer.json says.
  bool IsLlamaFamily() const;

  // special_tokens[name], if it is there.
  std::optional<std::string> SpecialToken(const std::string& name) const;
};

// Reads a model directory. A missing file counts as empty; a SentencePiece model without a
// configuration is of the Llama family. Throws kInvalidData.
TokenizerConfig ReadTokenizerConfig(const std::filesystem::path& directory);

}  // namespace nibble
