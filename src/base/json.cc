#include "base/json.h"

#include <fmt/format.h>

#include <limits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/utf8.h"

namespace nibble {
namespace {

constexpr size_t kMaxDepth = 100;
constexpr size_t kMaxQuoted = 120;  // bytes of a document repeated in a message

// Builds a document in linear time, rejecting duplicate keys and deep nesting, which nlohmann's own
// parser accepts. (Its ordered objects find a key by linear search; hostile files have millions.)
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const std::string& where) : where_(where) {}

  Json Take() { return std::move(root_); }

  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(number_integer_t value) override { return Put(value); }
  bool number_unsigned(number_unsigned_t value) override { return Put(value); }
  bool number_float(number_float_t value, const string_t&) override { return Put(value); }
  bool string(string_t& value) override { return Put(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in text documents

  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& value) override {
    if (!open_.back().keys.insert(value).second) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: duplicate key {}", where_, Quoted(value)));
    }
    key_ = std::move(value);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string_view reason = error.what();
    if (const size_t bracket = reason.find("] "); bracket != std::string_view::npos) {
      reason.remove_prefix(bracket + 2);
    }
    throw Error(ErrorCode::kInvalidData, fmt::format("{}: not valid JSON near byte {}: {}", where_,
                                                     position, Utf8Prefix(reason, 2 * kMaxQuoted)));
  }

 private:
  struct Level {
    Json* value;
    std::unordered_set<std::string> keys;  // of an object
  };

  Json* Insert(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back().value;
    if (parent.is_array()) {
      auto& elements = parent.get_ref<Json::array_t&>();
      elements.push_back(std::move(value));
      return &elements.back();
    }
    // The base class appends without the search: key() has done it.
    Json::object_t::Container& members = parent.get_ref<Json::object_t&>();
    members.emplace_back(std::move(key_), std::move(value));
    return &members.back().second;
  }

  bool Put(Json value) {
    Insert(std::move(value));
    return true;
  }

  bool Open(Json value) {
    if (open_.size() == kMaxDepth) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: nested deeper than {} levels", where_, kMaxDepth));
    }
    Json* inserted = Insert(std::move(value));
    open_.push_back({inserted, {}});
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  const std::string& where_;
  Json root_;
  std::string key_;
  std::vector<Level> open_;
};

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
  Builder builder(where);
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
