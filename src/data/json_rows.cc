#include "data/json_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string_view>
#include <utility>

#include "base/json_builder.h"
#include "nibble/error.h"

namespace nibble {
namespace {

bool IsSpace(int c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

void SkipSpace(CharStream& in) {
  while (IsSpace(in.Peek())) in.Next();
}

// The characters of one JSON value as the parser gets them: NaN and infinities outside of strings,
// words that begin with letters no JSON value begins with, are null, and so is what is passed over.
class ValueChars {
 public:
  ValueChars(CharStream& in, const std::string& where) : in_(in), where_(where) {}

  int Peek() {
    if (at_ < replacement_.size()) return static_cast<unsigned char>(replacement_[at_]);
    const int c = in_.Peek();
    if (in_string_ || (c != 'N' && c != 'I' && c != '-')) return c;
    ReplaceWord();
    return static_cast<unsigned char>(replacement_[at_]);
  }

  void Next() {
    if (at_ < replacement_.size()) {
      ++at_;
      return;
    }
    const int c = in_.Peek();
    if (c == '"' && !escaped_) in_string_ = !in_string_;
    escaped_ = in_string_ && c == '\\' && !escaped_;
    in_.Next();
  }

  // Behind the name of a member: passes over its value without a look at more than where it ends.
  void PassOverMember() {
    SkipSpace(in_);
    if (in_.Peek() != ':') return;  // for the parser to say
    in_.Next();
    SkipSpace(in_);
    replacement_ = PassOverValue() ? ":null" : ":";
    at_ = 0;
  }

 private:
  // False: none is here.
  bool PassOverValue() {
    const int first = in_.Peek();
    if (first == '"') {
      PassOverString();
      return true;
    }
    if (first == '[' || first == '{') {
      PassOverContainer();
      return true;
    }
    bool any = false;
    const auto in_scalar = [](int c) { return c > ' ' && c != ',' && c != ']' && c != '}'; };
    for (; in_scalar(in_.Peek()); in_.Next()) any = true;
    return any;
  }

  void PassOverContainer() {
    int64_t depth = 0;
    do {
      const int c = in_.Peek();
      if (c < 0) ThrowEndless();
      if (c == '[' || c == '{') ++depth;
      if (c == ']' || c == '}') --depth;
      c == '"' ? PassOverString() : in_.Next();
    } while (depth > 0);
  }

  void PassOverString() {
    for (in_.Next(); in_.Peek() != '"'; in_.Next()) {
      if (in_.Peek() == '\\') in_.Next();
      if (in_.Peek() < 0 || in_.Peek() == '\n') ThrowEndless();
    }
    in_.Next();
  }

  [[noreturn]] void ThrowEndless() const {
    throw Error(ErrorCode::kInvalidData,
                where_ + ": not valid JSON: a string or a bracket is not closed");
  }

  void ReplaceWord() {
    replacement_.clear();
    at_ = 0;
    if (in_.Peek() == '-') Take();
    if (in_.Peek() != 'N' && in_.Peek() != 'I') return;  // a negative number
    while ((in_.Peek() >= 'a' && in_.Peek() <= 'z') || (in_.Peek() >= 'A' && in_.Peek() <= 'Z')) {
      Take();
      if (replacement_.size() > kLongest) return;
    }
    std::string_view word = replacement_;
    if (word.starts_with('-')) word.remove_prefix(1);
    if (word == "NaN" || word == "Infinity" || word == "Inf") replacement_ = "null";
  }

  void Take() {
    replacement_ += static_cast<char>(in_.Peek());
    in_.Next();
  }

  static constexpr size_t kLongest = std::string_view("-Infinity").size();

  CharStream& in_;
  const std::string& where_;
  bool in_string_ = false;
  bool escaped_ = false;
  std::string replacement_;  // given out from at_, in place of what was taken from in_
  size_t at_ = 0;
};

// Builds a row, passing over the members that are not `columns`.
class RowBuilder : public JsonBuilder {
 public:
  RowBuilder(ValueChars& chars, const std::string& where, std::span<const std::string> columns)
      : JsonBuilder(where), chars_(chars), columns_(columns) {}

  bool key(string_t& name) override {
    if (depth() > 1 || std::find(columns_.begin(), columns_.end(), name) != columns_.end()) {
      return JsonBuilder::key(name);
    }
    SetKey(name);
    chars_.PassOverMember();
    return true;
  }

 private:
  ValueChars& chars_;
  std::span<const std::string> columns_;
};

// What nlohmann's parser walks over. The default is the end.
class CharIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  CharIterator() = default;
  explicit CharIterator(ValueChars& chars) : chars_(&chars) {}

  char operator*() const { return static_cast<char>(chars_->Peek()); }
  CharIterator& operator++() {
    chars_->Next();
    return *this;
  }
  bool operator==(const CharIterator& other) const { return AtEnd() == other.AtEnd(); }

 private:
  bool AtEnd() const { return chars_ == nullptr || chars_->Peek() < 0; }

  ValueChars* chars_ = nullptr;
};

Json ParseRow(CharStream& in, const std::string& where, std::span<const std::string> columns) {
  ValueChars chars(in, where);
  RowBuilder builder(chars, where, columns);
  // Not strict: the parser stops behind the value, and another may follow.
  if (!Json::sax_parse(CharIterator(chars), CharIterator(), &builder, Json::input_format_t::json,
                       false)) {
    throw Error(ErrorCode::kInvalidData, where + ": not valid JSON");
  }
  Json value = builder.Take();
  if (value.is_null()) return Json::object();
  if (value.is_string()) return Json{{"text", std::move(value)}};
  if (!value.is_object()) {
    throw Error(ErrorCode::kInvalidData, where + ": expected an object with named columns");
  }
  return value;
}

}  // namespace

void ReadJsonRows(CharStream& in, const std::string& name, std::span<const std::string> columns,
                  const std::function<void(Json value, std::string where)>& visit) {
  const auto read_row = [&](std::string where) {
    in.StartRow();
    Json row = ParseRow(in, where, columns);
    visit(std::move(row), std::move(where));
    SkipSpace(in);
  };
  SkipSpace(in);
  if (in.Peek() != '[') {
    while (in.Peek() >= 0) read_row(fmt::format("{}:{}", name, in.line()));
    return;
  }
  const auto next = [&] {
    in.Next();
    SkipSpace(in);
  };
  next();
  bool more = in.Peek() != ']';
  for (int64_t number = 1; more; ++number) {
    read_row(fmt::format("{}: row {}", name, number));
    more = in.Peek() == ',';
    if (!more && in.Peek() != ']') {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}:{}: not valid JSON: expected a comma or the end of the array",
                              name, in.line()));
    }
    if (more) next();
  }
  next();
  if (in.Peek() >= 0) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}:{}: not valid JSON: more behind the array", name, in.line()));
  }
}

}  // namespace nibble
