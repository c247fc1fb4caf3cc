#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

// Text ↔ token ids, as the `tokenizers` library does it. Immutable after load; safe to share by
// threads.
class Tokenizer {
 public:
  // From a model directory: tokenizer.json, or else a SentencePiece `tokenizer.model` converted on
  // the fly, or else GPT-2's vocab.json and merges.txt. Special tokens, and for the Llama family
  // BOS and EOS, as tokenizer_config.json says. Throws kNotFound, kInvalidData or kUnsupported
  // (Tekken, tiktoken, a SentencePiece model that cannot be converted) naming the file.
  static Tokenizer Load(const std::filesystem::path& directory);
  // A tokenizer.json, or a SentencePiece model (any other extension), with nothing beside it.
  static Tokenizer LoadFile(const std::filesystem::path& file);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // add_special_tokens: run the post-processor (which adds BOS for the Llama family). Invalid UTF-8
  // is kInvalidArgument.
  std::vector<int32_t> Encode(std::string_view text, bool add_special_tokens) const;
  // Ids outside the vocabulary are skipped.
  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  int64_t vocab_size() const;  // one more than the largest id, added tokens included
  std::optional<int32_t> TokenToId(std::string_view token) const;
  std::optional<std::string> IdToToken(int32_t id) const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  bool IsSpecial(int32_t id) const;
  // Whether `ids`, encoded with special tokens, begin with BOS twice: the text has one of its own.
  bool BeginsWithTwoBos(std::span<const int32_t> ids) const;

 private:
  Tokenizer();
  struct State;
  std::unique_ptr<State> state_;
};

// One warning for all texts of `source` where `count` of `total` bring a BOS of their own along
// (BeginsWithTwoBos); none for 0. The ids stay as they are.
void WarnOfTwoBos(std::string_view source, int64_t count, int64_t total);

}  // namespace nibble
