#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "nibble/error.h"

// Typed access to JSON whose errors name the document and the path inside it.
namespace nibble {

using Json = nlohmann::ordered_json;  // keeps key order: config.json is written back as it was read

// Parses `text`; `where` (a file name) goes into the error. Throws kInvalidData, also for duplicate
// keys, nesting deeper than 100 levels and invalid UTF-8.
Json ParseJson(std::string_view text, const std::string& where);

// Reads a file and parses it.
Json ReadJsonFile(const std::string& path);

// object[key] as T, or an error like: config.json: hidden_size: expected an integer, found "256".
// T is bool, int64_t, double or std::string. JSON null counts as absent.
template <typename T>
T GetRequired(const Json& object, std::string_view key, const std::string& where);
template <typename T>
T GetOr(const Json& object, std::string_view key, T fallback, const std::string& where);

}  // namespace nibble
