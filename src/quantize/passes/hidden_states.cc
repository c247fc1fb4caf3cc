#include "quantize/passes/hidden_states.h"

#include <algorithm>

#include "base/check.h"

namespace nibble {
namespace {

constexpr char kCalibrationActivations[] = "calibration activations";

}  // namespace

HiddenStates HiddenStates::InMemory(int64_t rows, int64_t cols) {
  HiddenStates states(rows, cols);
  states.memory_ = BigMemory(states.Offset(rows), kCalibrationActivations);
  return states;
}

HiddenStates HiddenStates::InFile(int64_t rows, int64_t cols,
                                  const std::filesystem::path& directory) {
  HiddenStates states(rows, cols);
  states.file_ = File::CreateNameless(directory, kCalibrationActivations);
  states.file_.Reserve(states.Offset(rows));
  return states;
}

std::span<float> HiddenStates::Rows(int64_t first, int64_t count) {
  NIBBLE_CHECK(first >= 0 && count >= 0 && first + count <= rows_);
  if (in_file()) return {};
  return {data() + first * cols_, static_cast<size_t>(count * cols_)};
}

std::span<const float> HiddenStates::Rows(int64_t first, int64_t count) const {
  return const_cast<HiddenStates*>(this)->Rows(first, count);
}

void HiddenStates::Load(int64_t first, std::span<float> out) const {
  NIBBLE_CHECK(first >= 0 && first * cols_ + static_cast<int64_t>(out.size()) <= rows_ * cols_);
  if (!in_file()) {
    const float* const from = data() + first * cols_;
    std::copy(from, from + out.size(), out.data());
    return;
  }
  file_.ReadAt(std::as_writable_bytes(out), Offset(first));
}

void HiddenStates::Store(int64_t first, std::span<const float> rows) {
  NIBBLE_CHECK(first >= 0 && first * cols_ + static_cast<int64_t>(rows.size()) <= rows_ * cols_);
  if (!in_file()) {
    std::copy(rows.begin(), rows.end(), data() + first * cols_);
    return;
  }
  file_.WriteAt(std::as_bytes(rows), Offset(first));
}

}  // namespace nibble
