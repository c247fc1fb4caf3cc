#include "base/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>
#include <vector>

#include "base/utf8.h"

namespace nibble {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxNodes = 20000;

Json PlainScalar(const std::string& text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") return {};
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  const char* const end = text.data() + text.size();
  int64_t integer = 0;
  if (const auto [at, error] = std::from_chars(text.data(), end, integer);
      at == end && error == std::errc()) {
    return integer;
  }
  double number = 0;
  if (const auto [at, error] = std::from_chars(text.data(), end, number);
      at == end && error == std::errc() && std::isfinite(number)) {
    return number;
  }
  return text;
}

// Builds the document while it is parsed, so that limits act before anything large exists.
class JsonBuilder : public YAML::EventHandler {
 public:
  explicit JsonBuilder(const std::string& where) : where_(where) {}

  Json Take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { Add(mark, Json(), ""); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Fail(mark, "aliases are not supported");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    CheckTag(mark, tag);
    if (!IsValidUtf8(value)) Fail(mark, "text that is not UTF-8");  // by an escape such as \ud800
    Add(mark, tag == "?" ? PlainScalar(value) : Json(value), value);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    CheckTag(mark, tag);
    Open(mark, Json::array());
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    CheckTag(mark, tag);
    Open(mark, Json::object());
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapEnd() override { Close(); }

 private:
  // A container being filled. In a map, keys and values alternate.
  struct Level {
    Json value;
    std::string key;
    bool has_key = false;
  };

  [[noreturn]] void Fail(const YAML::Mark& mark, const std::string& what) const {
    throw Error(ErrorCode::kInvalidData, fmt::format("{}:{}: {}", where_, mark.line + 1, what));
  }

  // "?" marks a value without a tag, "!" a quoted one.
  void CheckTag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!") Fail(mark, "tag " + tag + " is not supported");
  }

  void Count(const YAML::Mark& mark) {
    if (++num_nodes_ > kMaxNodes) Fail(mark, fmt::format("more than {} values", kMaxNodes));
  }

  void Add(const YAML::Mark& mark, Json value, const std::string& text) {
    Count(mark);
    if (levels_.empty()) {
      root_ = std::move(value);
      return;
    }
    Level& level = levels_.back();
    if (!level.value.is_object()) {
      level.value.push_back(std::move(value));
    } else if (!level.has_key) {
      if (level.value.contains(text)) Fail(mark, "key \"" + text + "\" appears twice");
      level.key = text;
      level.has_key = true;
    } else {
      level.value[level.key] = std::move(value);
      level.has_key = false;
    }
  }

  void Open(const YAML::Mark& mark, Json value) {
    Count(mark);
    if (levels_.size() == kMaxDepth) Fail(mark, fmt::format("more than {} levels", kMaxDepth));
    if (!levels_.empty() && levels_.back().value.is_object() && !levels_.back().has_key) {
      Fail(mark, "a key must be a scalar");
    }
    levels_.push_back({std::move(value), "", false});
  }

  void Close() {
    Json value = std::move(levels_.back().value);
    levels_.pop_back();
    --num_nodes_;  // it was counted when it was opened
    Add(YAML::Mark(), std::move(value), "");
  }

  std::string where_;
  Json root_;
  std::vector<Level> levels_;
  size_t num_nodes_ = 0;
};

}  // namespace

Json ParseYaml(std::string_view text, const std::string& where) {
  if (text.size() > kMaxBytes) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: {} bytes, more than the {} a recipe may have", where, text.size(),
                            kMaxBytes));
  }
  if (const size_t valid = ScanUtf8(text).valid_bytes; valid < text.size()) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}:{}: not UTF-8", where,
                            1 + std::count(text.begin(),
                                           text.begin() + static_cast<ptrdiff_t>(valid), '\n')));
  }
  JsonBuilder builder(where);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
  } catch (const YAML::Exception& error) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}:{}: {}", where, error.mark.line + 1, error.msg));
  }
  return builder.Take();
}

}  // namespace nibble
