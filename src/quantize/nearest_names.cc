#include "quantize/nearest_names.h"

#include <algorithm>
#include <cctype>
#include <numeric>
#include <string_view>
#include <utility>

namespace nibble {
namespace {

constexpr std::string_view kRegex = "re:";

bool IsWord(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// The pattern as the name it means most literally: of an expression the words, between dots.
std::string Literal(std::string_view pattern) {
  if (!pattern.starts_with(kRegex)) return std::string(pattern);
  std::string text;
  for (const char c : pattern.substr(kRegex.size())) {
    if (IsWord(c)) {
      text += c;
    } else if (!text.empty() && text.back() != '.') {
      text += '.';
    }
  }
  if (text.ends_with('.')) text.pop_back();
  return text;
}

// Letters to insert, drop or replace until `text` is `name`, or with `anywhere` a part of it.
size_t Distance(std::string_view text, std::string_view name, bool anywhere) {
  std::vector<size_t> row(name.size() + 1);  // against each beginning of the name
  if (!anywhere) std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < text.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < name.size(); ++j) {
      const size_t replaced = diagonal + (text[i] == name[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return anywhere ? *std::min_element(row.begin(), row.end()) : row.back();
}

// "model.layers.#.block_sparse_moe.experts.#.w1".
std::string WithoutNumbers(const std::string& name) {
  std::string kind;
  for (const char c : name) {
    const bool digit = std::isdigit(static_cast<unsigned char>(c)) != 0;
    if (digit && kind.ends_with('.')) kind += '#';
    if (!digit || !kind.ends_with('#')) kind += c;
  }
  return kind;
}

}  // namespace

std::vector<std::string> NearestNames(const std::string& pattern,
                                      const std::vector<std::string>& names) {
  const std::string literal = Literal(pattern);
  const bool anywhere = pattern.starts_with(kRegex);
  std::vector<std::pair<size_t, size_t>> order;  // distance and index: the first of equals wins
  for (size_t i = 0; i < names.size(); ++i) {
    order.emplace_back(Distance(literal, names[i], anywhere), i);
  }
  std::sort(order.begin(), order.end());
  constexpr size_t kMost = 3;
  std::vector<std::string> nearest;
  std::vector<std::string> kinds;
  for (const auto& [distance, index] : order) {
    const std::string kind = WithoutNumbers(names[index]);
    if (std::find(kinds.begin(), kinds.end(), kind) != kinds.end()) continue;
    kinds.push_back(kind);
    nearest.push_back(names[index]);
    if (nearest.size() == kMost) break;
  }
  return nearest;
}

}  // namespace nibble
