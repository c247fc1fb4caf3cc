#include "quantize/gptq/hessian_factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/math.h"

namespace nibble {
namespace {

constexpr int kMaxRetries = 5;
constexpr int64_t kTile = 64;  // of the transposition: two tiles of floats stay in the L1 cache

}  // namespace

HessianFactor::HessianFactor(const Recipe& recipe, float* h, int64_t n, GptqAlgebra& algebra)
    : recipe_(&recipe), h_(h), n_(n), algebra_(&algebra) {
  SaveLower();
  order_.resize(n);
  std::iota(order_.begin(), order_.end(), 0);
  // With a NaN the diagonal has no order; the caller rejects such an H by FindNonFinite.
  if (recipe.act_order != ActOrder::kNone && FindNonFinite() < 0) {
    std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) {
      const float at_a = diagonal_[a];
      const float at_b = diagonal_[b];
      if (at_a > at_b) return true;
      return at_a == at_b && a < b;
    });
  }
}

// H = 2 X^T X, mirrored.
void HessianFactor::SaveLower() {
  const int64_t tiles = CeilDiv(n_, kTile);
  algebra_->threads().ParallelFor(tiles, [&](int64_t tile, int) {
    const int64_t first = tile * kTile;
    const int64_t last = std::min(first + kTile, n_);
    for (int64_t j0 = first; j0 < n_; j0 += kTile) {
      const int64_t j1 = std::min(j0 + kTile, n_);
      for (int64_t i = first; i < last; ++i) {
        for (int64_t j = std::max(i, j0); j < j1; ++j) {
          h_[i * n_ + j] *= 2;
          h_[j * n_ + i] = h_[i * n_ + j];
        }
      }
    }
  });
  diagonal_.resize(n_);
  for (int64_t i = 0; i < n_; ++i) diagonal_[i] = h_[i * n_ + i];
}

// The upper triangle in sweep order, the diagonal left out.
void HessianFactor::RestoreUpper() {
  algebra_->threads().ParallelFor(n_, [&](int64_t i, int) {
    const int64_t row = order_[i];
    for (int64_t j = i + 1; j < n_; ++j) {
      const int64_t col = order_[j];
      h_[i * n_ + j] = h_[std::max(row, col) * n_ + std::min(row, col)];
    }
  });
}

int64_t HessianFactor::num_dead() const {
  return std::count(diagonal_.begin(), diagonal_.end(), 0.0f);
}

int64_t HessianFactor::FindNonFinite() const {
  for (int64_t i = 0; i < n_; ++i) {
    if (!std::isfinite(diagonal_[i])) return i;
  }
  return -1;
}

// By panels of rows of x: the panel's diagonal block, and twice the blocks on one side of it.
std::vector<double> HessianFactor::QuadraticForms(const float* x, int64_t count) const {
  const int64_t panel_rows = n_ <= 1024 ? 128 : 512;
  const int64_t panels = CeilDiv(n_, panel_rows);
  std::vector<double> parts(panels * count);
  algebra_->threads().ParallelFor(panels, [&](int64_t panel, int) {
    const int64_t first = panel * panel_rows;
    const int64_t rows = std::min(panel_rows, n_ - first);
    const int64_t next = first + rows;
    std::vector<float> y(rows * count);
    algebra_->TransposedMultiplyAdd(1.0f, h_ + first * n_ + first, n_, x + first * count, count,
                                    y.data(), count, rows, count, rows);
    algebra_->TransposedMultiplyAdd(2.0f, h_ + next * n_ + first, n_, x + next * count, count,
                                    y.data(), count, rows, count, n_ - next);
    double* const part = parts.data() + panel * count;
    const float* const x_of_panel = x + first * count;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < count; ++i) {
        const size_t at = static_cast<size_t>(row * count + i);
        part[i] += static_cast<double>(x_of_panel[at]) * static_cast<double>(y[at]);
      }
    }
  });
  std::vector<double> sums(count);
  for (size_t i = 0; i < parts.size(); ++i) sums[i % sums.size()] += parts[i];
  return sums;
}

bool HessianFactor::Factor() {
  double sum = 0;
  for (const float value : diagonal_) sum += value == 0 ? 1.0 : static_cast<double>(value);
  const double mean = sum / static_cast<double>(n_);
  dampening_ = recipe_->dampening;
  bool upper_is_intact = recipe_->act_order == ActOrder::kNone;
  for (retries_ = 0; retries_ <= kMaxRetries; ++retries_) {
    if (retries_ > 0) dampening_ = std::max(2 * dampening_, 0.01);
    damping_added_ = static_cast<float>(dampening_ * mean);
    if (!upper_is_intact) RestoreUpper();
    for (int64_t i = 0; i < n_; ++i) {
      const float value = diagonal_[order_[i]];
      h_[i * n_ + i] = (value == 0 ? 1.0f : value) + damping_added_;
    }
    if (algebra_->InverseCholesky(h_, n_) < 0) return true;
    upper_is_intact = false;
  }
  --retries_;
  return false;
}

}  // namespace nibble
