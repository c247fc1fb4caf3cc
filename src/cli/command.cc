#include "cli/command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdio>
#include <limits>
#include <utility>

#include "base/check.h"
#include "nibble/error.h"

namespace nibble {

namespace {

// Lets cuda and cuda:N through: MakeBackend says why they do not compute yet, and what to do.
std::string CheckBackendName(std::string& name) {
  if (name == "cuda" || name.starts_with("cuda:")) return "";
  return CLI::IsMember({"cpu", "reference"})(name);
}

}  // namespace

CLI::App* AddSubcommand(CLI::App& app, const std::string& name, const std::string& description,
                        const std::string& example) {
  CLI::App* command = app.add_subcommand(name, description);
  command->footer("Example:\n  " + example);
  return command;
}

void AddDeviceOptions(CLI::App& command, DeviceOptions& options) {
  command.add_option("--backend", options.backend, "Where to compute; reference is slow and exact")
      ->check(CLI::Validator(CheckBackendName, "{cpu,reference}"))
      ->capture_default_str();
  command.add_option("--threads", options.threads, "Threads to compute with (0: all CPUs)")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

void AddKvCacheOption(CLI::App& command, std::string& name) {
  command
      .add_option("--kv-cache-dtype", name,
                  "Type of cached keys and values; auto is float32, int8 has a scale per token and "
                  "head")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16", "int8"}))
      ->capture_default_str();
}

DType KvCacheType(const std::string& name) {
  return name == "bfloat16" ? DType::kBF16 : name == "int8" ? DType::kI8 : DType::kF32;
}

void AddActivationsOption(CLI::App& command, DeviceOptions& options) {
  command
      .add_option("--activations", options.activations,
                  "What INT4 and INT8 weights are multiplied with: int16 (exact to 1.5e-5) or int8 "
                  "(faster, costs accuracy)")
      ->check(CLI::IsMember({"int16", "int8"}))
      ->capture_default_str();
}

void AddJsonFlag(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "Print one JSON document instead of text");
}

int64_t ParseByteSize(const std::string& text, const std::string& flag) {
  static constexpr std::pair<const char*, double> kUnits[] = {
      {"", 1},         {"b", 1},        {"k", 1e3},      {"kb", 1e3},    {"m", 1e6},
      {"mb", 1e6},     {"g", 1e9},      {"gb", 1e9},     {"t", 1e12},    {"tb", 1e12},
      {"kib", 0x1p10}, {"mib", 0x1p20}, {"gib", 0x1p30}, {"tib", 0x1p40}};
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, status] = std::from_chars(text.data(), end, value);
  std::string unit(rest, end);
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto* match = std::find_if(std::begin(kUnits), std::end(kUnits),
                                   [&](const auto& entry) { return unit == entry.first; });
  constexpr double kLargest = 0x1p62;
  if (status != std::errc() || match == std::end(kUnits) || !(value > 0) ||
      value * match->second > kLargest) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{}: expected a size such as 8GB, 512MiB or 4096, found \"{}\"", flag, text));
  }
  return static_cast<int64_t>(value * match->second);
}

void PrintJson(const Json& document) {
  const std::string text = document.dump(2);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
}

TextTable::TextTable(std::vector<std::string> headings) { rows_.push_back(std::move(headings)); }

void TextTable::AddRow(std::vector<std::string> cells) {
  NIBBLE_CHECK(cells.size() == rows_.front().size());
  rows_.push_back(std::move(cells));
}

std::string TextTable::ToString() const {
  const auto is_number = [](const std::string& cell) {
    return cell == "-" ||
           (!cell.empty() && (std::isdigit(static_cast<unsigned char>(cell[0])) != 0 ||
                              cell[0] == '-' || cell[0] == '+'));
  };
  const size_t columns = rows_.front().size();
  std::vector<size_t> widths(columns, 0);
  std::vector<bool> numeric(columns, rows_.size() > 1);
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t c = 0; c < columns; ++c) {
      widths[c] = std::max(widths[c], rows_[r][c].size());
      if (r > 0 && !is_number(rows_[r][c])) numeric[c] = false;
    }
  }
  std::string text;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < columns; ++c) {
      if (c > 0) line += "  ";
      line += numeric[c] ? fmt::format("{:>{}}", rows_[r][c], widths[c])
                         : fmt::format("{:<{}}", rows_[r][c], widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
    if (r == 0) {
      for (size_t c = 0; c < columns; ++c)
        text += (c > 0 ? "  " : "") + std::string(widths[c], '-');
      text += "\n";
    }
  }
  return text;
}

}  // namespace nibble
