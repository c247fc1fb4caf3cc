#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/text_stream.h"

namespace nibble {

// Calls `visit` with the fields of each record of a CSV file (RFC 4180: commas, quotes doubled
// inside quotes, newlines allowed there) and the number of its first line. Blank lines are skipped.
// Throws kInvalidData naming `where` and the line for unbalanced quotes.
void ReadCsv(TextStream& stream, const std::string& where,
             const std::function<void(std::vector<std::string> fields, int64_t line)>& visit);

}  // namespace nibble
