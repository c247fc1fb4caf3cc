#include "data/csv.h"

#include <fmt/format.h>

#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

// A state machine: takes a file's characters one by one and collects the fields of a record.
class Record {
 public:
  enum class Result { kMore, kComplete, kBadQuote };

  Result Add(char c) {
    const bool ends_field = c == ',' || c == '\n';
    switch (state_) {
      case State::kStart:
        if (c == '"') {
          state_ = State::kQuoted;
          return Result::kMore;
        }
        state_ = State::kPlain;
        [[fallthrough]];
      case State::kPlain:
        if (c == '"') return Result::kBadQuote;
        if (ends_field) return EndField(c);
        field_ += c;
        return Result::kMore;
      case State::kQuoted:
        if (c == '"') {
          state_ = State::kQuoteSeen;
        } else {
          field_ += c;
        }
        return Result::kMore;
      case State::kQuoteSeen:
        if (c == '"') {  // a doubled quote
          field_ += c;
          state_ = State::kQuoted;
          return Result::kMore;
        }
        if (c == '\r') return Result::kMore;
        return ends_field ? EndField(c) : Result::kBadQuote;
    }
    return Result::kMore;
  }

  bool empty() const { return fields_.empty() && field_.empty() && state_ == State::kStart; }
  bool in_quotes() const { return state_ == State::kQuoted; }
  std::vector<std::string> Take() { return std::exchange(fields_, {}); }

 private:
  enum class State { kStart, kPlain, kQuoted, kQuoteSeen };

  Result EndField(char c) {
    if (c == '\n' && state_ == State::kPlain && field_.ends_with('\r')) field_.pop_back();
    fields_.push_back(std::exchange(field_, {}));
    state_ = State::kStart;
    return c == '\n' ? Result::kComplete : Result::kMore;
  }

  State state_ = State::kStart;
  std::vector<std::string> fields_;
  std::string field_;
};

}  // namespace

void ReadCsv(TextStream& stream, const std::string& where,
             const std::function<void(std::vector<std::string> fields, int64_t line)>& visit) {
  Record record;
  int64_t first_line = 0;
  const auto add = [&](char c) {
    const Record::Result result = record.Add(c);
    if (result == Record::Result::kBadQuote) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}:{}: a quote inside a field must be doubled, and the field quoted",
                              where, stream.line_number()));
    }
    if (result == Record::Result::kComplete) visit(record.Take(), first_line);
  };
  while (const auto line = stream.NextLine()) {
    if (record.empty()) {
      if (line->empty() || *line == "\r") continue;
      first_line = stream.line_number();
    }
    for (const char c : *line) add(c);
    add('\n');
  }
  if (record.in_quotes()) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}:{}: the quote opened here is never closed", where, first_line));
  }
}

}  // namespace nibble
