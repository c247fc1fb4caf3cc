#include "checkpoint/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string_view>
#include <tuple>

#include "base/file.h"
#include "base/json.h"
#include "base/math.h"
#include "base/utf8.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the format's own reader
constexpr std::string_view kMetadataKey = "__metadata__";

Error Invalid(const std::string& where, const std::string& what) {
  return Error(ErrorCode::kInvalidData, where + ": " + what);
}

// Reads the header's JSON as events (SAX), without a document tree or quadratic key look-ups, which
// hostile files could exploit:
//
//   { NAME: { "dtype": STRING, "shape": [INT…], "data_offsets": [INT, INT] }…,
//     "__metadata__": { STRING: STRING… } }
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(SafetensorsHeader& header, const std::string& where)
      : header_(header), where_(where) {}

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop && name_ == kMetadataKey) {
      if (metadata_seen_) throw Invalid(where_, "__metadata__ stands twice");
      metadata_seen_ = true;
      place_ = Place::kMetadata;
    } else if (place_ == Place::kTop) {
      place_ = Place::kTensor;
      tensor_ = Tensor();
    } else {
      throw Unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) FinishTensor();
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }

  bool key(string_t& value) override {
    (place_ == Place::kTop ? name_ : field_) = std::move(value);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      if (!header_.metadata.emplace(field_, std::move(value)).second) {
        throw Invalid(where_, fmt::format("__metadata__: duplicate key {}", Quoted(field_)));
      }
      return true;
    }
    if (place_ != Place::kTensor || field_ != "dtype") throw Unexpected("a string");
    if (tensor_.has_dtype) throw Twice();
    const std::optional<DType> dtype = ParseDType(value);
    tensor_.dtype = dtype.value_or(DType::kU8);
    if (!dtype && value.empty()) throw Invalid(Context(), "dtype is empty");
    if (!dtype) tensor_.foreign_type = std::move(value);
    tensor_.has_dtype = true;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor) throw Unexpected("an array");
    if (field_ == "shape") {
      if (tensor_.has_shape) throw Twice();
      tensor_.has_shape = true;
      place_ = Place::kShape;
    } else if (field_ == "data_offsets") {
      if (tensor_.has_offsets) throw Twice();
      tensor_.has_offsets = true;
      place_ = Place::kOffsets;
    } else {
      throw Unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && tensor_.num_offsets != 2) {
      throw Invalid(Context(), fmt::format("data_offsets: expected two numbers, found {}",
                                           tensor_.num_offsets));
    }
    place_ = Place::kTensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (value > kMax) throw Unexpected(fmt::format("{}, beyond 63 bits", value));
    const auto number = static_cast<int64_t>(value);
    if (place_ == Place::kShape) {
      if (tensor_.rank == Shape::kMaxRank) {
        throw Invalid(Context(), fmt::format("more than {} dimensions", Shape::kMaxRank));
      }
      tensor_.dims[tensor_.rank++] = number;
    } else if (place_ == Place::kOffsets) {
      if (tensor_.num_offsets < 2) tensor_.offsets[tensor_.num_offsets] = number;
      ++tensor_.num_offsets;
    } else {
      throw Unexpected("a number");
    }
    return true;
  }

  bool number_integer(number_integer_t value) override {
    throw Unexpected(fmt::format("the negative number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    throw Unexpected("the number " + std::string(Utf8Prefix(text, 40)));
  }
  bool null() override { throw Unexpected("null"); }
  bool boolean(bool) override { throw Unexpected("a truth value"); }
  bool binary(binary_t&) override { throw Unexpected("binary data"); }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string_view reason = error.what();
    if (const size_t bracket = reason.find("] "); bracket != std::string_view::npos) {
      reason.remove_prefix(bracket + 2);
    }
    throw Invalid(where_, fmt::format("header is not valid JSON near byte {}: {}", position,
                                      Utf8Prefix(reason, 200)));
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  // The fields of the current tensor read so far.
  struct Tensor {
    DType dtype = DType::kF32;
    std::string foreign_type;
    std::array<int64_t, Shape::kMaxRank> dims{};
    int rank = 0;
    std::array<int64_t, 2> offsets{};
    size_t num_offsets = 0;
    bool has_dtype = false;
    bool has_shape = false;
    bool has_offsets = false;
  };

  std::string Context() const { return fmt::format("{}: tensor {}", where_, Quoted(name_)); }

  Error Unexpected(const std::string& found) const {
    switch (place_) {
      case Place::kStart:
      case Place::kEnd:
        return Invalid(where_, "header: expected an object, found " + found);
      case Place::kTop:
        return Invalid(Context(), "expected an object, found " + found);
      case Place::kMetadata:
        return Invalid(where_, fmt::format("__metadata__: {}: expected a string, found {}",
                                           Quoted(field_), found));
      default:
        break;
    }
    if (field_ == "dtype") return Invalid(Context(), "dtype: expected a string, found " + found);
    if (field_ == "shape" || field_ == "data_offsets") {
      return Invalid(Context(), field_ + ": expected an array of counts, found " + found);
    }
    return Invalid(Context(), "unknown field " + Quoted(field_));
  }

  Error Twice() const { return Invalid(Context(), field_ + " stands twice"); }

  void FinishTensor() {
    if (!tensor_.has_dtype) throw Invalid(Context(), "dtype is missing");
    if (!tensor_.has_shape) throw Invalid(Context(), "shape is missing");
    if (!tensor_.has_offsets) throw Invalid(Context(), "data_offsets is missing");
    const Shape shape(std::span(tensor_.dims).first(tensor_.rank));
    int64_t size = DTypeSize(tensor_.dtype);
    for (const int64_t dim : shape.dims()) {
      if (__builtin_mul_overflow(size, dim, &size)) {
        throw Invalid(Context(), fmt::format("shape {} overflows", shape.ToString()));
      }
    }
    const auto [begin, end] = std::tie(tensor_.offsets[0], tensor_.offsets[1]);
    if (!tensor_.foreign_type.empty()) size = end - begin;
    if (begin > end || end - begin != size) {
      throw Invalid(Context(), fmt::format("{} {} needs {} bytes, data_offsets [{}, {}] give {}",
                                           DTypeName(tensor_.dtype), shape.ToString(), size, begin,
                                           end, end - begin));
    }
    header_.entries.push_back(
        {std::move(name_), tensor_.dtype, shape, begin, end, std::move(tensor_.foreign_type)});
  }

  SafetensorsHeader& header_;
  const std::string& where_;
  Place place_ = Place::kStart;
  bool metadata_seen_ = false;
  std::string name_;   // key at the top
  std::string field_;  // key one level below
  Tensor tensor_;
};

void CheckNamesDiffer(const SafetensorsHeader& header, const std::string& where) {
  std::vector<const std::string*> names;
  names.reserve(header.entries.size());
  for (const SafetensorsEntry& entry : header.entries) names.push_back(&entry.name);
  std::sort(names.begin(), names.end(), [](auto* a, auto* b) { return *a < *b; });
  const auto twin =
      std::adjacent_find(names.begin(), names.end(), [](auto* a, auto* b) { return *a == *b; });
  if (twin != names.end()) {
    throw Invalid(where, fmt::format("tensor {} stands twice in the header", Quoted(**twin)));
  }
}

// Tensors must cover the data buffer exactly: sorts them by offset and compares neighbours.
void CheckCoverage(SafetensorsHeader& header, int64_t data_size, const std::string& where) {
  std::vector<SafetensorsEntry>& entries = header.entries;
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t covered = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != covered) {
      throw Invalid(where, fmt::format("tensor {} begins at byte {} of the data, {} byte {}",
                                       Quoted(entry.name), entry.begin,
                                       entry.begin < covered ? "overlapping the one that ends at"
                                                             : "leaving a hole from",
                                       covered));
    }
    if (entry.end > data_size) {
      throw Invalid(where,
                    fmt::format("tensor {} ends at byte {} of the data, the file holds {}: it is "
                                "truncated; fetch it again",
                                Quoted(entry.name), entry.end, data_size));
    }
    covered = entry.end;
  }
  if (covered != data_size) {
    throw Invalid(where,
                  fmt::format("the tensors end at byte {} of the data, the file goes on to {}",
                              covered, data_size));
  }
}

}  // namespace

SafetensorsHeader ParseSafetensorsHeader(std::span<const std::byte> file, int64_t file_size,
                                         const std::string& where) {
  if (file_size < kLengthBytes || file.size() < static_cast<size_t>(kLengthBytes)) {
    throw Invalid(where, fmt::format("{} bytes are too few for a safetensors file", file_size));
  }
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  if (length > kMaxHeaderBytes) {
    throw Invalid(where, fmt::format("header of {} bytes: at most {} are allowed; is it a "
                                     "safetensors file?",
                                     length, kMaxHeaderBytes));
  }
  const auto header_end = kLengthBytes + static_cast<int64_t>(length);
  if (header_end > file_size || static_cast<size_t>(header_end) > file.size()) {
    throw Invalid(where, fmt::format("header of {} bytes does not fit a file of {}: it is "
                                     "truncated; fetch it again",
                                     length, file_size));
  }
  const auto* text = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  if (length == 0 || text[0] != '{') throw Invalid(where, "header does not begin with '{'");

  // The JSON parser would take a zero byte for the end of its input and ignore the rest.
  if (const void* zero = std::memchr(text, 0, length)) {
    throw Invalid(where, fmt::format("header is not valid JSON near byte {}: zero byte",
                                     static_cast<const char*>(zero) - text));
  }

  SafetensorsHeader header;
  header.data_offset = header_end;
  HeaderReader reader(header, where);
  nlohmann::json::sax_parse(text, text + length, &reader);
  CheckNamesDiffer(header, where);
  CheckCoverage(header, file_size - header_end, where);
  return header;
}

std::string LayOutSafetensors(std::vector<SafetensorsEntry>& entries) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    const int64_t size_a = DTypeSize(a.dtype);
    const int64_t size_b = DTypeSize(b.dtype);
    return size_a != size_b ? size_a > size_b : a.name < b.name;
  });
  std::string json = R"({"__metadata__":{"format":"pt"})";
  const std::string* previous = nullptr;
  int64_t offset = 0;
  for (SafetensorsEntry& entry : entries) {
    entry.begin = offset;
    entry.end = offset += entry.shape.num_elements() * DTypeSize(entry.dtype);
    std::string dims = entry.shape.ToString();
    std::erase(dims, ' ');
    json +=
        fmt::format(R"(,{}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})",
                    Json(entry.name).dump(), DTypeName(entry.dtype), dims, entry.begin, entry.end);
  }
  json += '}';
  // Equal names are adjacent only within one element size, so all names are compared.
  std::vector<const std::string*> names;
  names.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) names.push_back(&entry.name);
  std::sort(names.begin(), names.end(), [](auto* a, auto* b) { return *a < *b; });
  for (const std::string* name : names) {
    if (*name == kMetadataKey || (previous != nullptr && *previous == *name)) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("tensor {} cannot be written: {}", Quoted(*name),
                      *name == kMetadataKey ? "the name is reserved" : "the name stands twice"));
    }
    previous = name;
  }
  json.resize(RoundUp(json.size(), 8), ' ');
  std::string bytes;
  for (size_t i = 0; i < 8; ++i) bytes += static_cast<char>((json.size() >> (8 * i)) & 0xff);
  return bytes + json;
}

void WriteSafetensors(const std::filesystem::path& path,
                      const std::vector<std::pair<std::string, TensorView>>& tensors) {
  std::map<std::string_view, const TensorView*> views;
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, view] : tensors) {
    views[name] = &view;
    entries.push_back({name, view.dtype(), view.shape(), 0, 0});
  }
  const std::string header = LayOutSafetensors(entries);
  AtomicFile file(path);
  file.Write(header);
  for (const SafetensorsEntry& entry : entries) file.Write(views.at(entry.name)->bytes());
  file.Commit();
}

}  // namespace nibble
