#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace nibble {
namespace {

using std::chrono::steady_clock;

constexpr auto kSilence = std::chrono::seconds(2);  // short work prints nothing
constexpr auto kOnTerminal = std::chrono::milliseconds(200);
constexpr auto kElsewhere = std::chrono::seconds(10);

}  // namespace

Progress::Progress(std::string label, std::string unit, int64_t total)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(steady_clock::now()),
      next_print_(start_ + kSilence) {}

Progress::~Progress() {
  if (printed_) Print(true);
}

void Progress::Add(int64_t count) {
  done_ += count;
  if (steady_clock::now() >= next_print_) Print(false);
}

void Progress::SetLabel(std::string label) { label_ = std::move(label); }

void Progress::Print(bool last) {
  const auto now = steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const std::string line = ProgressLine(label_, unit_, done_, total_, seconds);
  if (terminal_) {
    std::fprintf(stderr, "\r%s\x1b[K%s", line.c_str(), last ? "\n" : "");  // to the end of the line
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::fflush(stderr);
  printed_ = true;
  next_print_ = now + (terminal_ ? steady_clock::duration(kOnTerminal) : kElsewhere);
}

std::string ProgressLine(const std::string& label, const std::string& unit, int64_t done,
                         int64_t total, double seconds) {
  const bool bytes = unit == "B";
  std::string line = bytes ? fmt::format("{}: {}/{}", label, FormatBytes(done), FormatBytes(total))
                           : fmt::format("{}: {}/{} {}", label, done, total, unit);
  if (total > 0) {
    line += fmt::format(" ({:.0f} %)",
                        std::floor(100.0 * static_cast<double>(done) / static_cast<double>(total)));
  }
  if (done > 0 && seconds > 0) {
    const double rate = static_cast<double>(done) / seconds;
    line += bytes        ? fmt::format(", {}/s", FormatBytes(std::llround(rate)))
            : rate >= 10 ? fmt::format(", {:.0f} {}/s", rate, unit)
                         : fmt::format(", {:.2g} {}/s", rate, unit);
    line += done < total
                ? fmt::format(", {} left", FormatSeconds(static_cast<double>(total - done) / rate))
                : fmt::format(", took {}", FormatSeconds(seconds));
  }
  return line;
}

std::string FormatBytes(int64_t bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (unit + 1 < std::size(units) && std::abs(value) >= (unit == 0 ? 1000.0 : 999.95)) {
    value /= 1000.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

std::string FormatSeconds(double seconds) {
  seconds = std::max(seconds, 0.0);
  if (seconds < 99.95) return fmt::format("{:.1f} s", seconds);
  const int64_t whole = std::llround(std::min(seconds, 1e15));
  if (whole < 3600) return fmt::format("{} min {:02d} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02d} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace nibble
