#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/text_stream.h"

namespace nibble {

// Calls `visit` with the fields of each record of a CSV text and the number of its first line.
// Fields stand between `separator`s (a comma or a tab), or in quotes that are doubled inside, where
// separators and line ends are text; a quote elsewhere is itself text. Lines end in a newline, a
// carriage return or both; those that hold nothing but blanks are skipped. This is what Python and
// pandas read. Throws kInvalidData naming `where` and the line for a quote that is never closed.
void ReadCsv(CharStream& in, char separator, const std::string& where,
             const std::function<void(std::vector<std::string> fields, int64_t line)>& visit);

}  // namespace nibble
