#pragma once

#include <functional>
#include <span>
#include <string>

#include "base/json.h"
#include "data/text_stream.h"

namespace nibble {

// Calls `visit` with each row of a JSON text and where it stands ("rows.jsonl:17", or in an array
// "rows.json: row 3"), one row in memory at a time. Rows are objects, one after another with white
// space between (JSON Lines, and objects over several lines), or in one array; a string stands for
// an object with this "text", null for one without columns. Columns that are not in `columns` are
// passed over: they are null, whatever they hold. NaN and Infinity, which Python and pandas write,
// count as null. `name` is the file's. Throws kInvalidData.
void ReadJsonRows(CharStream& in, const std::string& name, std::span<const std::string> columns,
                  const std::function<void(Json value, std::string where)>& visit);

}  // namespace nibble
