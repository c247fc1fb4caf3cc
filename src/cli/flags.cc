#include "cli/flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <functional>
#include <sstream>
#include <type_traits>
#include <utility>

#include "base/progress.h"
#include "base/utf8.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using Results = CLI::results_t;

// An option that hands each of its arguments to `take`, untouched.
CLI::Option* AddTyped(CLI::App& command, const std::string& name, const std::string& type,
                      const std::string& description,
                      std::function<void(const std::string& argument)> take,
                      std::function<std::string()> default_text = {}) {
  return command
      .add_option(
          name,
          [take = std::move(take)](const Results& arguments) {
            for (const std::string& argument : arguments) take(argument);
            return true;
          },
          description, /*defaulted=*/false, std::move(default_text))
      ->type_name(type);
}

// Makes an option one that may be given again. Each time it takes one argument: CLI11's vectors
// would take all that follow.
CLI::Option* Repeatable(CLI::Option* option) {
  return option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

const std::string& CheckText(const std::string& text, const std::string& flag) {
  const size_t valid = ScanUtf8(text).valid_bytes;
  if (valid == text.size()) return text;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}: expected UTF-8, found another byte at {}", flag, valid));
}

const std::string& CheckPath(const std::string& path, const std::string& flag) {
  if (!path.empty()) return path;
  throw Error(ErrorCode::kInvalidArgument, flag + ": expected a path, found an empty text");
}

template <typename T>
bool IsLimited(const Limits<T>& limits) {
  return limits.least != Limits<T>{}.least || limits.most != Limits<T>{}.most;
}

template <typename T>
std::string TypeOf(const Limits<T>& limits) {
  const std::string type = std::is_floating_point_v<T> ? "FLOAT" : "INT";
  if (!IsLimited(limits)) return type;
  return limits.most == Limits<T>{}.most
             ? fmt::format("{} from {}", type, limits.least)
             : fmt::format("{} {}..{}", type, limits.least, limits.most);
}

}  // namespace

CLI::Option* AddText(CLI::App& command, const std::string& name, std::string& text,
                     const std::string& description) {
  return AddTyped(command, name, "TEXT", description,
                  [name, &text](const std::string& argument) { text = CheckText(argument, name); });
}

CLI::Option* AddTexts(CLI::App& command, const std::string& name, std::vector<std::string>& texts,
                      const std::string& description) {
  return Repeatable(AddTyped(
      command, name, "TEXT", description,
      [name, &texts](const std::string& argument) { texts.push_back(CheckText(argument, name)); }));
}

CLI::Option* AddPath(CLI::App& command, const std::string& name, std::string& path,
                     const std::string& description) {
  return AddTyped(command, name, "PATH", description,
                  [name, &path](const std::string& argument) { path = CheckPath(argument, name); });
}

CLI::Option* AddPath(CLI::App& command, const std::string& name, std::filesystem::path& path,
                     const std::string& description) {
  return AddTyped(command, name, "PATH", description,
                  [name, &path](const std::string& argument) { path = CheckPath(argument, name); });
}

template <typename T>
CLI::Option* AddNumber(CLI::App& command, const std::string& name, T& number,
                       const std::string& description, Limits<T> limits) {
  return AddTyped(
             command, name, TypeOf(limits), description,
             [name, limits, &number](const std::string& argument) {
               number = ParseNumber(argument, name, limits);
             },
             [&number] { return fmt::format("{}", number); })
      ->capture_default_str();
}

template <typename T>
CLI::Option* AddNumbers(CLI::App& command, const std::string& name, std::vector<T>& numbers,
                        const std::string& description, Limits<T> limits) {
  return Repeatable(AddTyped(command, name, TypeOf(limits) + ",...", description,
                             [name, limits, &numbers](const std::string& argument) {
                               std::istringstream pieces(argument + ",");
                               for (std::string piece; std::getline(pieces, piece, ',');) {
                                 numbers.push_back(ParseNumber(piece, name, limits));
                               }
                             }));
}

CLI::Option* AddByteSize(CLI::App& command, const std::string& name, int64_t& bytes,
                         const std::string& description) {
  return AddTyped(
             command, name, "SIZE", description,
             [name, &bytes](const std::string& argument) { bytes = ParseByteSize(argument, name); },
             [&bytes] { return bytes == 0 ? std::string() : FormatBytes(bytes); })
      ->capture_default_str();
}

template <typename T>
T ParseNumber(const std::string& text, const std::string& flag, Limits<T> limits) {
  T number{};
  const char* const end = text.data() + text.size();
  const auto [rest, status] = std::from_chars(text.data(), end, number);
  bool valid = status == std::errc() && rest == end;
  if constexpr (std::is_floating_point_v<T>) valid = valid && std::isfinite(number);
  if (valid && number >= limits.least && number <= limits.most) return number;
  constexpr bool kWhole = std::is_integral_v<T>;  // whose limits are always worth telling
  const std::string range =
      kWhole || IsLimited(limits) ? fmt::format(" from {} to {}", limits.least, limits.most) : "";
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}: expected {}{}, found {}", flag, kWhole ? "an integer" : "a number",
                          range, Quoted(text)));
}

// CLI::AsSizeValue takes "GB" and "-1", clamps what does not fit and refuses "1.5GiB".
int64_t ParseByteSize(const std::string& text, const std::string& flag) {
  static constexpr std::pair<const char*, double> kUnits[] = {
      {"", 1},         {"b", 1},        {"k", 1e3},      {"kb", 1e3},    {"m", 1e6},
      {"mb", 1e6},     {"g", 1e9},      {"gb", 1e9},     {"t", 1e12},    {"tb", 1e12},
      {"kib", 0x1p10}, {"mib", 0x1p20}, {"gib", 0x1p30}, {"tib", 0x1p40}};
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, status] = std::from_chars(text.data(), end, value);
  std::string unit(rest, end);
  if (unit.size() > 1 && unit.front() == ' ') unit.erase(0, 1);
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto* match = std::find_if(std::begin(kUnits), std::end(kUnits),
                                   [&](const auto& entry) { return unit == entry.first; });
  const double bytes =
      status == std::errc() && match != std::end(kUnits) ? value * match->second : 0;
  constexpr double kLargest = 0x1p62;
  if (!(bytes >= 1 && bytes <= kLargest)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: expected a size such as 8GB, 512MiB or 4096, found {}", flag,
                            Quoted(text)));
  }
  return static_cast<int64_t>(bytes);
}

template CLI::Option* AddNumber(CLI::App&, const std::string&, int&, const std::string&,
                                Limits<int>);
template CLI::Option* AddNumber(CLI::App&, const std::string&, int64_t&, const std::string&,
                                Limits<int64_t>);
template CLI::Option* AddNumber(CLI::App&, const std::string&, uint64_t&, const std::string&,
                                Limits<uint64_t>);
template CLI::Option* AddNumber(CLI::App&, const std::string&, double&, const std::string&,
                                Limits<double>);
template CLI::Option* AddNumbers(CLI::App&, const std::string&, std::vector<int>&,
                                 const std::string&, Limits<int>);
template int ParseNumber(const std::string&, const std::string&, Limits<int>);
template int64_t ParseNumber(const std::string&, const std::string&, Limits<int64_t>);
template uint64_t ParseNumber(const std::string&, const std::string&, Limits<uint64_t>);
template double ParseNumber(const std::string&, const std::string&, Limits<double>);

}  // namespace nibble
