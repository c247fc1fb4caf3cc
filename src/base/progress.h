#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace nibble {

// A progress line on stderr with rate and time left. Silent for the first two seconds; rewrites one
// line on a terminal, prints a line now and then elsewhere. Not thread-safe.
class Progress {
 public:
  // `label` names the phase ("calibrate layer 3/56"), `unit` what is counted ("tokens"; "B" is
  // printed in kB, MB, GB).
  Progress(std::string label, std::string unit, int64_t total);
  ~Progress();

  void Add(int64_t count);
  void SetLabel(std::string label);

 private:
  void Print(bool last);

  std::string label_;
  std::string unit_;
  int64_t total_;
  int64_t done_ = 0;
  bool terminal_;
  bool printed_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point next_print_;
};

// The text of the line: "calibrate: 300/1024 rows (29 %), 12 rows/s, 60.3 s left".
std::string ProgressLine(const std::string& label, const std::string& unit, int64_t done,
                         int64_t total, double seconds);

// "1.2 GB", "340 MiB"-style figures are for people; JSON output carries plain numbers.
std::string FormatBytes(int64_t bytes);     // decimal units
std::string FormatSeconds(double seconds);  // "0.8 s", "12 min 03 s"

}  // namespace nibble
