#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "base/json.h"

namespace nibble {

// One row of a data file and where it came from, for error messages ("rows.jsonl:17").
struct Row {
  Json value;  // an object
  std::string where;
};

// Calls `visit` for each row in file order, one row in memory at a time (.json: all of them). The
// extension determines the format: .jsonl/.ndjson, .json (an array of objects), .csv (the first
// record names the columns; all values are strings), each plain or .gz / .zst; .parquet (whose
// nulls are kept). Throws kNotFound, kInvalidData (with the line or row number), kUnsupported
// naming the extension and those allowed.
void ReadTable(const std::filesystem::path& path, const std::function<void(Row row)>& visit);

// A text file, plain or .gz / .zst, checked to be UTF-8.
std::string ReadText(const std::filesystem::path& path);

}  // namespace nibble
