#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/utf8.h"

namespace nibble {

// What nlohmann's parser drives behind ParseJson and the readers of rows. Builds a document in
// linear time, rejecting duplicate keys and deep nesting, which nlohmann's own parser accepts. (Its
// ordered objects find a key by linear search; hostile files have millions.) Throws kInvalidData
// naming `where`, which must outlive it.
class JsonBuilder : public nlohmann::json_sax<Json> {
 public:
  explicit JsonBuilder(const std::string& where) : where_(where) {}

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
    SetKey(value);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string_view reason = error.what();
    if (const size_t bracket = reason.find("] "); bracket != std::string_view::npos) {
      reason.remove_prefix(bracket + 2);
    }
    throw Error(ErrorCode::kInvalidData, fmt::format("{}: not valid JSON near byte {}: {}", where_,
                                                     position, Utf8Prefix(reason, kMaxReason)));
  }

 protected:
  size_t depth() const { return open_.size(); }  // of containers around the next value

  // Of the next value, which has no other to be compared with.
  void SetKey(std::string& key) { key_ = std::move(key); }

 private:
  static constexpr size_t kMaxDepth = 100;
  // Bytes of the parser's words, which quote the document.
  static constexpr size_t kMaxReason = 240;

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

}  // namespace nibble
