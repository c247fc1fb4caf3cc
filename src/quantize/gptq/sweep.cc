#include "quantize/gptq/sweep.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quantize/gptq/sweep.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace nibble {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = hn::CappedTag<float, 16>;

// Columns per deferred update: their errors are spread together, so that the far update reads and
// writes each weight once for all of them.
constexpr int64_t kNear = 16;

// Column `i`: codes, errors, losses.
void QuantizeColumn(const SweepBlock& block, int64_t i) {
  const Floats d;
  const hn::Rebind<int32_t, Floats> d32;
  const hn::Rebind<int8_t, Floats> d8;
  const int64_t rows = block.rows;
  const float* const weights = block.weights + i * rows;
  const float* const scales = block.scales + block.groups[i] * rows;
  const float* const zero_points = block.zero_points + block.groups[i] * rows;
  const auto min_code = hn::Set(d, block.min_code);
  const auto max_code = hn::Set(d, block.max_code);
  const auto pivot =
      hn::Set(d, block.factor == nullptr ? 1.0f : block.factor[i * block.factor_stride + i]);
  for (int64_t row = 0; row < rows; row += static_cast<int64_t>(hn::Lanes(d))) {
    const auto weight = hn::Load(d, weights + row);
    const auto scale = hn::Load(d, scales + row);
    const auto zero_point = hn::Load(d, zero_points + row);
    const auto position = hn::Add(hn::Div(weight, scale), zero_point);
    const auto code = hn::Round(hn::Min(hn::Max(position, min_code), max_code));
    hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(d32, code)), d8, block.codes + i * rows + row);
    const auto decoded = hn::Mul(hn::Sub(code, zero_point), scale);
    const auto error = hn::Div(hn::Sub(weight, decoded), pivot);
    hn::Store(error, d, block.errors + i * rows + row);
    const auto loss = hn::Load(d, block.losses + row);
    hn::Store(hn::MulAdd(error, error, loss), d, block.losses + row);
  }
}

// weights[j] -= sum over i in [first, last) of U[i, j] * errors[i], for four columns from j on (or
// one).
template <int kColumns>
void Spread(const SweepBlock& block, int64_t first, int64_t last, int64_t j) {
  const Floats d;
  const int64_t rows = block.rows;
  for (int64_t row = 0; row < rows; row += static_cast<int64_t>(hn::Lanes(d))) {
    float* const target = block.weights + j * rows + row;
    const float* u = block.factor + first * block.factor_stride + j;
    auto sum0 = hn::Load(d, target);
    auto sum1 = kColumns > 1 ? hn::Load(d, target + rows) : sum0;
    auto sum2 = kColumns > 2 ? hn::Load(d, target + 2 * rows) : sum0;
    auto sum3 = kColumns > 3 ? hn::Load(d, target + 3 * rows) : sum0;
    for (int64_t i = first; i < last; ++i, u += block.factor_stride) {
      const auto error = hn::Load(d, block.errors + i * rows + row);
      sum0 = hn::NegMulAdd(hn::Set(d, u[0]), error, sum0);
      if constexpr (kColumns > 1) sum1 = hn::NegMulAdd(hn::Set(d, u[1]), error, sum1);
      if constexpr (kColumns > 2) sum2 = hn::NegMulAdd(hn::Set(d, u[2]), error, sum2);
      if constexpr (kColumns > 3) sum3 = hn::NegMulAdd(hn::Set(d, u[3]), error, sum3);
    }
    hn::Store(sum0, d, target);
    if constexpr (kColumns > 1) hn::Store(sum1, d, target + rows);
    if constexpr (kColumns > 2) hn::Store(sum2, d, target + 2 * rows);
    if constexpr (kColumns > 3) hn::Store(sum3, d, target + 3 * rows);
  }
}

void SweepTarget(const SweepBlock& block) {
  std::fill(block.losses, block.losses + block.rows, 0.0f);
  for (int64_t first = 0; first < block.columns; first += kNear) {
    const int64_t last = std::min(first + kNear, block.columns);
    for (int64_t i = first; i < last; ++i) {
      QuantizeColumn(block, i);
      if (block.factor == nullptr) continue;
      for (int64_t j = i + 1; j < last; ++j) Spread<1>(block, i, i + 1, j);
    }
    if (block.factor == nullptr) continue;
    int64_t j = last;
    for (; j + 4 <= block.columns; j += 4) Spread<4>(block, first, last, j);
    for (; j < block.columns; ++j) Spread<1>(block, first, last, j);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace nibble
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nibble {

HWY_EXPORT(SweepTarget);

void Sweep(const SweepBlock& block) { HWY_DYNAMIC_DISPATCH(SweepTarget)(block); }

}  // namespace nibble
#endif
