#include "text/detokenizer.h"

#include <algorithm>
#include <span>

#include "base/check.h"
#include "nibble/error.h"

namespace nibble {
namespace {

// U+FFFD, to which incomplete or invalid bytes are decoded.
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

constexpr size_t kMaxPending = 16;  // tokens without a whole character among them: that is no UTF-8

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

// The part of `all` after `settled`, both decoded from the same first tokens. When a byte makes a
// series of byte tokens invalid, its characters in `settled` are U+FFFDs in `all`, one per byte.
std::string_view NewText(std::string_view settled, std::string_view all) {
  if (all.starts_with(settled)) return all.substr(settled.size());
  const auto difference = std::mismatch(settled.begin(), settled.end(), all.begin(), all.end());
  const size_t common = CharacterBoundary(
      settled, static_cast<size_t>(std::distance(settled.begin(), difference.first)));
  all.remove_prefix(common);
  for (size_t left = settled.size() - common; left > 0 && all.starts_with(kReplacement); --left) {
    all.remove_prefix(kReplacement.size());
  }
  return all;
}

}  // namespace

Detokenizer::Detokenizer(const Tokenizer& tokenizer, std::vector<std::string> stop_strings,
                         bool skip_special_tokens)
    : tokenizer_(&tokenizer),
      stop_strings_(std::move(stop_strings)),
      skip_special_tokens_(skip_special_tokens) {
  for (const std::string& stop : stop_strings_) {
    if (stop.empty()) throw Error(ErrorCode::kInvalidArgument, "a stop string may not be empty");
  }
}

std::string Detokenizer::Add(int32_t token) {
  NIBBLE_CHECK(!stopped_);
  if (skip_special_tokens_ && tokenizer_->IsSpecial(token)) return "";
  window_.push_back(token);
  Decode();
  return Release();
}

// Decoding is not additive (a leading space depends on what stands before), so the new text is the
// difference between two decodings that share their first tokens.
void Detokenizer::Decode() {
  const std::span<const int32_t> window(window_);
  const std::string all = tokenizer_->Decode(window, skip_special_tokens_);
  // A character may be spread over several byte tokens: waits for the last of them, up to
  // kMaxPending.
  const bool may_complete = !finishing_ && window_.size() - num_settled_ < kMaxPending;
  if (all.ends_with(kReplacement) && may_complete) return;
  const std::string settled = tokenizer_->Decode(window.first(num_settled_), skip_special_tokens_);
  const std::string_view text = NewText(settled, all);
  if (text.empty()) return;
  held_ += text;
  // Drops the settled tokens; the ones just decoded stay as context.
  window_.erase(window_.begin(), window_.begin() + static_cast<ptrdiff_t>(num_settled_));
  num_settled_ = window_.size();
}

// Cuts at the first listed stop string that occurs; holds back a suffix that may become one.
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
  finishing_ = true;  // an unfinished character becomes U+FFFD now: no byte of it will follow
  if (num_settled_ < window_.size()) Decode();
  std::string text = Release();
  if (!stopped_) text += held_;
  held_.clear();
  return text;
}

}  // namespace nibble
