#include "base/json.h"

#include <fmt/format.h>

#include <limits>
#include <utility>

#include "base/file.h"
#include "base/json_builder.h"
#include "base/utf8.h"

namespace nibble {
namespace {

constexpr size_t kMaxQuoted = 120;  // bytes of a document repeated in a message

std::string Shown(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return std::string(Utf8Prefix(text, kMaxQuoted));
}

template <typename T>
T Convert(const Json& value, std::string_view key, const std::string& where) {
  const char* expected = nullptr;
  if constexpr (std::is_same_v<T, bool>) {
    if (value.is_boolean()) return value.get<bool>();
    expected = "true or false";
  } else if constexpr (std::is_same_v<T, int64_t>) {
    const bool too_big = value.is_number_unsigned() &&
                         value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
    if (value.is_number_integer() && !too_big) return value.get<int64_t>();
    expected = "an integer";
  } else if constexpr (std::is_same_v<T, double>) {
    if (value.is_number()) return value.get<double>();
    expected = "a number";
  } else {
    if (value.is_string()) return value.get<std::string>();
    expected = "a string";
  }
  throw Error(ErrorCode::kInvalidData,
              fmt::format("{}: {}: expected {}, found {}", where, key, expected, Shown(value)));
}

// The member, or null when absent or JSON null.
const Json* Find(const Json& object, std::string_view key, const std::string& where) {
  if (!object.is_object()) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: expected an object, found {}", where, Shown(object)));
  }
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

}  // namespace

Json ParseJson(std::string_view text, const std::string& where) {
  // nlohmann's lexer would take a zero byte for the end of the text and ignore the rest.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: not valid JSON near byte {}: zero byte", where, zero));
  }
  JsonBuilder builder(where);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    throw Error(ErrorCode::kInvalidData, where + ": not valid JSON");
  }
  return builder.Take();
}

Json ReadJsonFile(const std::string& path) { return ParseJson(ReadTextFile(path), path); }

template <typename T>
T GetRequired(const Json& object, std::string_view key, const std::string& where) {
  const Json* value = Find(object, key, where);
  if (value == nullptr) {
    throw Error(ErrorCode::kInvalidData, fmt::format("{}: {} is missing", where, key));
  }
  return Convert<T>(*value, key, where);
}

template <typename T>
T GetOr(const Json& object, std::string_view key, T fallback, const std::string& where) {
  const Json* value = Find(object, key, where);
  return value == nullptr ? std::move(fallback) : Convert<T>(*value, key, where);
}

template bool GetRequired<bool>(const Json&, std::string_view, const std::string&);
template int64_t GetRequired<int64_t>(const Json&, std::string_view, const std::string&);
template double GetRequired<double>(const Json&, std::string_view, const std::string&);
template std::string GetRequired<std::string>(const Json&, std::string_view, const std::string&);
template bool GetOr<bool>(const Json&, std::string_view, bool, const std::string&);
template int64_t GetOr<int64_t>(const Json&, std::string_view, int64_t, const std::string&);
template double GetOr<double>(const Json&, std::string_view, double, const std::string&);
template std::string GetOr<std::string>(const Json&, std::string_view, std::string,
                                        const std::string&);

}  // namespace nibble
