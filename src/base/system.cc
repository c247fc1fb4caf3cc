#include "base/system.h"

#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>

namespace nibble {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

std::optional<int64_t> ParseInteger(std::string_view text) {
  const size_t start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return std::nullopt;
  text.remove_prefix(start);
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc()) return std::nullopt;
  return value;
}

// The number after `key` on the line of `path` that starts with it.
std::optional<int64_t> FieldOf(const std::filesystem::path& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return ParseInteger(std::string_view(line).substr(key.size()));
  }
  return std::nullopt;
}

std::optional<int64_t> NumberIn(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return ParseInteger(line);  // "max" is no number: no limit
}

// Available memory of one control group: its limit minus its unreclaimable usage.
int64_t LeftInGroup(const std::filesystem::path& folder, const char* limit_file,
                    const char* usage_file, const char* cache_field) {
  const auto limit = NumberIn(folder / limit_file);
  const auto usage = NumberIn(folder / usage_file);
  if (!limit || !usage) return kNoLimit;
  const int64_t cache = FieldOf(folder / "memory.stat", cache_field).value_or(0);
  return std::max<int64_t>(0, *limit - std::max<int64_t>(0, *usage - cache));
}

int64_t LeftInControlGroups() {
  int64_t left = kNoLimit;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && controllers.find("memory") == std::string::npos) continue;
    const std::filesystem::path root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    // Any ancestor may have a limit; inside a container the path may not be visible, only the root.
    std::filesystem::path group = std::filesystem::path(line.substr(second + 1)).relative_path();
    for (;;) {
      left = std::min(left, unified ? LeftInGroup(root / group, "memory.max", "memory.current",
                                                  "inactive_file ")
                                    : LeftInGroup(root / group, "memory.limit_in_bytes",
                                                  "memory.usage_in_bytes", "total_inactive_file "));
      if (group.empty()) break;
      group = group.parent_path();
    }
  }
  return left;
}

}  // namespace

int64_t PeakResidentBytes() { return FieldOf("/proc/self/status", "VmHWM:").value_or(0) * 1024; }

int64_t AvailableMemoryBytes() {
  const auto available = FieldOf("/proc/meminfo", "MemAvailable:");
  return std::min(available ? *available * 1024 : kNoLimit, LeftInControlGroups());
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::string CpuModelName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t start = line.find_first_not_of(' ', colon + 1);
    if (start != std::string::npos) return line.substr(start);
  }
  return "unknown CPU";
}

}  // namespace nibble
