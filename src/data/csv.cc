#include "data/csv.h"

#include <fmt/format.h>

#include <utility>

#include "nibble/error.h"

namespace nibble {
namespace {

bool IsLineEnd(int c) { return c == '\n' || c == '\r' || c < 0; }

// Moves the text of a field, up to the separator or line end behind it, to `field`. False: its
// quote is never closed.
bool ReadField(CharStream& in, char separator, std::string& field) {
  const auto take = [&] {
    field += static_cast<char>(in.Peek());
    in.Next();
  };
  bool in_quotes = in.Peek() == '"';
  if (in_quotes) in.Next();
  while (in_quotes) {
    if (in.Peek() < 0) return false;
    if (in.Peek() != '"') {
      take();
      continue;
    }
    in.Next();
    in_quotes = in.Peek() == '"';  // a doubled one
    if (in_quotes) take();
  }
  while (in.Peek() != separator && !IsLineEnd(in.Peek())) take();
  return true;
}

}  // namespace

void ReadCsv(CharStream& in, char separator, const std::string& where,
             const std::function<void(std::vector<std::string> fields, int64_t line)>& visit) {
  while (in.Peek() >= 0) {
    const int64_t first_line = in.line();
    const bool quoted = in.Peek() == '"';
    in.StartRow();
    std::vector<std::string> fields;
    for (bool more = true; more;) {
      if (!ReadField(in, separator, fields.emplace_back())) {
        throw Error(ErrorCode::kInvalidData,
                    fmt::format("{}:{}: the quote opened here is never closed", where, first_line));
      }
      more = in.Peek() == separator;
      in.Next();
    }
    const bool blank =
        !quoted && fields.size() == 1 && fields[0].find_first_not_of(" \t") == std::string::npos;
    if (!blank) visit(std::move(fields), first_line);
  }
}

}  // namespace nibble
