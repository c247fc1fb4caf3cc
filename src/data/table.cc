#include "data/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/utf8.h"
#include "data/csv.h"
#include "data/json_rows.h"
#include "data/text_stream.h"
#include "nibble_bridge.h"
#include "text/bridge_call.h"

namespace nibble {
namespace {

constexpr size_t kMaxTextBytes = size_t{4} << 30;

std::string ReadAll(TextStream& stream, const std::string& name) {
  std::string text;
  for (std::string_view chunk = stream.NextChunk(); !chunk.empty(); chunk = stream.NextChunk()) {
    if (text.size() + chunk.size() > kMaxTextBytes) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: more than {} GiB of text", name, kMaxTextBytes >> 30));
    }
    text += chunk;
  }
  return text;
}

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string Listed(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) {
    list += (list.empty() ? "" : ", ") + std::string(Utf8Prefix(name, 40));
  }
  return list.empty() ? "none" : std::string(Utf8Prefix(list, 400));
}

void CheckUtf8(std::string_view text, const std::string& where) {
  if (!IsValidUtf8(text)) {
    throw Error(ErrorCode::kInvalidData, where + ": the text is not valid UTF-8");
  }
}

}  // namespace

std::string Row::WhyAbsent(const std::string& column) const {
  if (value.contains(column)) return fmt::format("column {} is null", Quoted(column));
  std::vector<std::string> names;
  for (const auto& [name, cell] : value.items()) names.push_back(name);
  return fmt::format("no column {}; the row has: {}", Quoted(column), Listed(names));
}

Table::Table(const std::filesystem::path& path, Columns columns, Format otherwise)
    : input_(path), columns_(std::move(columns)), format_(FormatOf(input_, otherwise)) {}

void Table::ForEachRow(const Visitor& visit) const {
  switch (format_) {
    case Format::kText:
      return ForEachLine(visit);
    case Format::kJson:
      return ForEachJsonRow(visit);
    case Format::kCsv:
      return ForEachRecord(',', visit);
    case Format::kTsv:
      return ForEachRecord('\t', visit);
    case Format::kParquet:
      return ForEachParquetRow(visit);
  }
}

std::vector<std::string> Table::ToRead(const std::vector<std::string>& names,
                                       const std::string& where) const {
  std::vector<std::string> columns;
  std::string wanted;
  for (const std::vector<std::string>& choice : columns_.choices) {
    const bool complete = std::all_of(choice.begin(), choice.end(),
                                      [&](const auto& column) { return Contains(names, column); });
    if (complete) columns.insert(columns.end(), choice.begin(), choice.end());
    wanted += wanted.empty() ? "" : " or ";
    for (size_t i = 0; i < choice.size(); ++i) wanted += (i > 0 ? " and " : "") + Quoted(choice[i]);
  }
  if (columns.empty()) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: no column {}; there are: {}{}", where, wanted, Listed(names),
                            columns_.hint.empty() ? "" : "; " + columns_.hint));
  }
  for (const std::string& column : columns) {
    if (std::count(names.begin(), names.end(), column) > 1) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: two columns are called {}", where, Quoted(column)));
    }
  }
  return columns;
}

void Table::Visit(Json value, std::string where, const Visitor& visit) const {
  Row row{std::move(value), std::nullopt, std::move(where)};
  const auto has = [&](const std::string& column) {
    const auto cell = row.value.find(column);
    return cell != row.value.end() && !cell->is_null();
  };
  for (size_t i = 0; i < columns_.choices.size() && !row.choice; ++i) {
    const std::vector<std::string>& choice = columns_.choices[i];
    if (std::all_of(choice.begin(), choice.end(), has)) row.choice = i;
  }
  if (row.choice) {
    for (const std::string& column : columns_.choices[*row.choice]) {
      const Json& cell = row.value[column];
      if (columns_.lists ? cell.is_array() : cell.is_string()) continue;
      throw Error(
          ErrorCode::kInvalidData,
          fmt::format("{}: column {}: expected {}, found {}", row.where, Quoted(column),
                      columns_.lists ? "a list of messages with role and content" : "a string",
                      Utf8Prefix(cell.dump(), 40)));
    }
  }
  visit(std::move(row));
}

void Table::ForEachJsonRow(const Visitor& visit) const {
  std::vector<std::string> columns;
  for (const std::vector<std::string>& choice : columns_.choices) {
    columns.insert(columns.end(), choice.begin(), choice.end());
  }
  CharStream in(input_);
  ReadJsonRows(in, name(), columns, [&](Json value, std::string where) {
    Visit(std::move(value), std::move(where), visit);
  });
}

void Table::ForEachLine(const Visitor& visit) const {
  TextStream stream(input_);
  while (auto line = stream.NextLine()) {
    if (line->ends_with('\r')) line->remove_suffix(1);
    if (line->empty()) continue;
    std::string where = fmt::format("{}:{}", name(), stream.line_number());
    CheckUtf8(*line, where);
    Visit({{"text", *line}}, std::move(where), visit);
  }
}

void Table::ForEachRecord(char separator, const Visitor& visit) const {
  std::optional<std::vector<std::string>> header;
  std::vector<std::string> columns;
  CharStream in(input_);
  ReadCsv(in, separator, name(), [&](std::vector<std::string> fields, int64_t line) {
    std::string where = fmt::format("{}:{}", name(), line);
    if (!header) {
      for (const std::string& column : fields) CheckUtf8(column, where);
      columns = ToRead(fields, where);
      header = std::move(fields);
      return;
    }
    if (fields.size() > header->size()) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: expected {} fields, found {}; a field with separators or line "
                              "ends stands in quotes",
                              where, header->size(), fields.size()));
    }
    Json row = Json::object();
    for (size_t i = 0; i < header->size(); ++i) {
      const std::string& column = (*header)[i];
      Json& cell = row[column];
      if (i >= fields.size() || !Contains(columns, column)) continue;
      CheckUtf8(fields[i], where);
      cell = std::move(fields[i]);
    }
    Visit(std::move(row), std::move(where), visit);
  });
}

void Table::ForEachParquetRow(const Visitor& visit) const {
  const int descriptor = input_.Open();
  rust::Box<bridge::ParquetReader> reader =
      BridgeCall(name(), [&] { return bridge::open_parquet(descriptor); });
  std::vector<std::string> names;
  for (const rust::String& column : BridgeCall(name(), [&] { return reader->column_names(); })) {
    names.emplace_back(column);
  }
  rust::Vec<rust::String> columns;
  for (const std::string& column : ToRead(names, name())) columns.push_back(column);
  BridgeCall(name(), [&] { reader->read_columns(columns, columns_.lists); });
  int64_t number = 0;
  while (true) {
    const rust::Vec<uint8_t> batch = BridgeCall(name(), [&] { return reader->next_rows(); });
    if (batch.empty()) return;
    std::string_view lines(reinterpret_cast<const char*>(batch.data()), batch.size());
    while (!lines.empty()) {
      const size_t length = std::min(lines.find('\n'), lines.size());
      std::string where = fmt::format("{}: row {}", name(), ++number);
      Json value = ParseJson(lines.substr(0, length), where);
      Visit(std::move(value), std::move(where), visit);
      lines.remove_prefix(std::min(length + 1, lines.size()));
    }
  }
}

std::string ReadText(const std::filesystem::path& path) {
  const Input input(path);
  TextStream stream(input);
  std::string text = ReadAll(stream, input.name());
  const size_t valid = ScanUtf8(text).valid_bytes;
  if (valid != text.size()) {
    const auto line =
        1 + std::count(text.begin(), text.begin() + static_cast<int64_t>(valid), '\n');
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}:{}: not valid UTF-8 (byte {})", input.name(), line, valid));
  }
  return text;
}

Json ReadJson(const std::filesystem::path& path) {
  return ParseJson(ReadText(path), InputName(path));
}

}  // namespace nibble
