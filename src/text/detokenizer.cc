#include "text/detokenizer.h"

#include <algorithm>

#include "base/check.h"

namespace nibble {
namespace {

constexpr std::string_view kReplacement =
    "\xEF\xBF\xBD";  // U+FFFD: bytes that are no character yet

// Length of the longest suffix of `text` that is a proper prefix of `stop`.
size_t HeldBack(std::string_view text, std::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.ends_with(stop.substr(0, length))) return length;
  }
  return 0;
}

// The largest cut ≤ `at` that does not fall inside a UTF-8 character.
size_t CharacterBoundary(std::string_view text, size_t at) {
  while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

}  // namespace

Detokenizer::Detokenizer(const Tokenizer& tokenizer, std::vector<std::string> stop_strings,
                         bool skip_special_tokens)
    : tokenizer_(&tokenizer),
      stop_strings_(std::move(stop_strings)),
      skip_special_tokens_(skip_special_tokens) {
  for (const std::string& stop : stop_strings_) NIBBLE_CHECK(!stop.empty());
}

// Decoding is not additive (a leading space depends on what stands before), so the new text is the
// difference between two decodings that share their first tokens: [begin, end) is settled, the rest
// new.
std::string Detokenizer::Add(int32_t token) {
  NIBBLE_CHECK(!stopped_);
  tokens_.push_back(token);
  const auto decode = [&](size_t last) {
    return tokenizer_->Decode(std::span(tokens_).subspan(prefix_begin_, last - prefix_begin_),
                              skip_special_tokens_);
  };
  const std::string settled = decode(prefix_end_);
  const std::string all = decode(tokens_.size());
  // A character may be spread over several byte tokens; wait for the last of them.
  if (all.size() <= settled.size() || std::string_view(all).ends_with(kReplacement)) return "";
  held_ += all.substr(settled.size());
  prefix_begin_ = prefix_end_;
  prefix_end_ = tokens_.size();
  return Release();
}

// Cuts at the first listed stop string that occurs; keeps back what may become one.
std::string Detokenizer::Release() {
  for (const std::string& stop : stop_strings_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    stopped_ = true;
    std::string text = held_.substr(0, at);
    held_.clear();
    return text;
  }
  size_t keep = 0;
  for (const std::string& stop : stop_strings_) keep = std::max(keep, HeldBack(held_, stop));
  const size_t cut = CharacterBoundary(held_, held_.size() - keep);
  std::string text = held_.substr(0, cut);
  held_.erase(0, cut);
  return text;
}

std::string Detokenizer::Finish() {
  if (stopped_) return "";
  // An unfinished character becomes U+FFFD now: no byte of it will follow.
  if (prefix_end_ < tokens_.size()) {
    const auto from = std::span(tokens_).subspan(prefix_begin_);
    const std::string settled =
        tokenizer_->Decode(from.first(prefix_end_ - prefix_begin_), skip_special_tokens_);
    const std::string all = tokenizer_->Decode(from, skip_special_tokens_);
    if (all.size() > settled.size()) held_ += all.substr(settled.size());
    prefix_end_ = tokens_.size();
  }
  std::string text = Release();
  if (!stopped_) text += held_;
  held_.clear();
  return text;
}

}  // namespace nibble
