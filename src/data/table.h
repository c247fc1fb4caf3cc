#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "data/input.h"

namespace nibble {

// The columns that are read. No other is looked at, whatever it holds, and others may share a name.
struct Columns {
  // The columns of the first of these that a row has, all of them and not null, are what it says.
  std::vector<std::vector<std::string>> choices;
  bool lists = false;  // of messages; else texts
  std::string hint;    // what to do about a table that has none of them; may be empty
};

// One row of a table and where it came from, for error messages ("rows.jsonl:17").
struct Row {
  Json value;                    // an object; of the columns that are not read only the names count
  std::optional<size_t> choice;  // its columns are strings, or with `lists` arrays
  std::string where;

  // Why the row does not have `column`: it is null, or there is none, and what there is.
  std::string WhyAbsent(const std::string& column) const;
};

// A file, a pipe or standard input of rows. FormatOf says how they are written; what is compressed
// is expanded. Blank lines are no rows. Lines of plain text are rows with the one column "text";
// the first record of CSV names the columns, and those that a record lacks at its end are null.
class Table {
 public:
  using Visitor = std::function<void(Row row)>;

  // `otherwise` is the format where the name does not tell. Throws as Input and FormatOf.
  Table(const std::filesystem::path& path, Columns columns, Format otherwise);

  const std::string& name() const { return input_.name(); }

  // Calls `visit` for each row in order, one row in memory at a time; may be called again. Throws
  // kInvalidData (with the line or the row's number): for damage, for a column that is read and of
  // which there are two, or which holds something else than texts (or lists), and where the names
  // of all columns are known beforehand (CSV, Parquet) and no choice is among them.
  void ForEachRow(const Visitor& visit) const;

 private:
  // Of columns called `names`, those of the choices.
  std::vector<std::string> ToRead(const std::vector<std::string>& names,
                                  const std::string& where) const;
  void Visit(Json value, std::string where, const Visitor& visit) const;
  void ForEachJsonRow(const Visitor& visit) const;
  void ForEachLine(const Visitor& visit) const;
  void ForEachRecord(char separator, const Visitor& visit) const;
  void ForEachParquetRow(const Visitor& visit) const;

  Input input_;
  Columns columns_;
  Format format_;
};

// The whole text of a file, a pipe or "-", standard input: expanded if it is compressed, without a
// byte order mark, checked to be UTF-8. Throws as Input and TextStream.
std::string ReadText(const std::filesystem::path& path);

// ReadText and ParseJson.
Json ReadJson(const std::filesystem::path& path);

}  // namespace nibble
