#include "data/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/utf8.h"
#include "data/csv.h"
#include "data/text_stream.h"
#include "nibble_bridge.h"
#include "text/bridge_call.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using Visitor = std::function<void(Row row)>;

constexpr size_t kMaxTextBytes = size_t{4} << 30;

std::string ReadAll(TextStream& stream, const std::string& where) {
  std::string text;
  for (std::string_view chunk = stream.NextChunk(); !chunk.empty(); chunk = stream.NextChunk()) {
    if (text.size() + chunk.size() > kMaxTextBytes) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: more than {} GiB of text", where, kMaxTextBytes >> 30));
    }
    text += chunk;
  }
  return text;
}

void VisitObject(Json value, std::string where, const Visitor& visit) {
  if (!value.is_object()) {
    throw Error(ErrorCode::kInvalidData, where + ": expected an object with named columns");
  }
  visit({std::move(value), std::move(where)});
}

void ReadJsonLines(const fs::path& path, const Visitor& visit) {
  TextStream stream(path);
  std::optional<int64_t> empty_line;  // allowed at the end of the file only
  while (const auto line = stream.NextLine()) {
    if (line->find_first_not_of(" \t\r") == std::string_view::npos) {
      if (!empty_line) empty_line = stream.line_number();
      continue;
    }
    if (empty_line) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}:{}: the line is empty", path.string(), *empty_line));
    }
    std::string where = fmt::format("{}:{}", path.string(), stream.line_number());
    Json value = ParseJson(*line, where);
    VisitObject(std::move(value), std::move(where), visit);
  }
}

void ReadJsonArray(const fs::path& path, const Visitor& visit) {
  TextStream stream(path);
  Json rows = ParseJson(ReadAll(stream, path.string()), path.string());
  if (!rows.is_array()) {
    throw Error(ErrorCode::kInvalidData,
                path.string() + ": expected an array of objects; one object a line is .jsonl");
  }
  int64_t number = 0;
  for (Json& row : rows) {
    VisitObject(std::move(row), fmt::format("{}: row {}", path.string(), ++number), visit);
  }
}

void ReadCsvRows(const fs::path& path, const Visitor& visit) {
  TextStream stream(path);
  std::vector<std::string> columns;
  ReadCsv(stream, path.string(), [&](std::vector<std::string> fields, int64_t line) {
    std::string where = fmt::format("{}:{}", path.string(), line);
    for (const std::string& field : fields) {
      if (!IsValidUtf8(field)) {
        throw Error(ErrorCode::kInvalidData, where + ": the text is not valid UTF-8");
      }
    }
    if (columns.empty()) {
      columns = std::move(fields);
      std::vector<std::string> sorted = columns;
      std::sort(sorted.begin(), sorted.end());
      const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
      if (twice == sorted.end()) return;
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: two columns are called \"{}\"", where, *twice));
    }
    if (fields.size() != columns.size()) {
      throw Error(ErrorCode::kInvalidData, fmt::format("{}: expected {} fields, found {}", where,
                                                       columns.size(), fields.size()));
    }
    Json row = Json::object();
    for (size_t i = 0; i < columns.size(); ++i) row[columns[i]] = std::move(fields[i]);
    visit({std::move(row), std::move(where)});
  });
}

void ReadParquet(const fs::path& path, const Visitor& visit) {
  const std::string name = path.string();
  rust::Box<bridge::ParquetReader> reader =
      BridgeCall(name, [&] { return bridge::open_parquet(rust::Str(name.data(), name.size())); });
  int64_t number = 0;
  while (true) {
    const rust::Vec<uint8_t> batch = BridgeCall(name, [&] { return reader->next_rows(); });
    if (batch.empty()) return;
    std::string_view lines(reinterpret_cast<const char*>(batch.data()), batch.size());
    while (!lines.empty()) {
      const size_t length = std::min(lines.find('\n'), lines.size());
      std::string where = fmt::format("{}: row {}", name, ++number);
      Json value = ParseJson(lines.substr(0, length), where);
      VisitObject(std::move(value), std::move(where), visit);
      lines.remove_prefix(std::min(length + 1, lines.size()));
    }
  }
}

}  // namespace

void ReadTable(const fs::path& path, const Visitor& visit) {
  const fs::path name = UncompressedName(path);
  const std::string extension = name.extension().string();
  if (extension == ".jsonl" || extension == ".ndjson") return ReadJsonLines(path, visit);
  if (extension == ".json") return ReadJsonArray(path, visit);
  if (extension == ".csv") return ReadCsvRows(path, visit);
  const bool compressed = path.filename().string().size() != name.string().size();
  if (extension == ".parquet" && !compressed) return ReadParquet(path, visit);
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("{}: a table's format goes by its name; expected .jsonl, .ndjson, .json or "
                  ".csv, each also with .gz or .zst, or .parquet",
                  path.string()));
}

std::string ReadText(const fs::path& path) {
  TextStream stream(path);
  std::string text = ReadAll(stream, path.string());
  const size_t valid = ScanUtf8(text).valid_bytes;
  if (valid != text.size()) {
    const auto line =
        1 + std::count(text.begin(), text.begin() + static_cast<int64_t>(valid), '\n');
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}:{}: not valid UTF-8 (byte {})", path.string(), line, valid));
  }
  return text;
}

}  // namespace nibble
