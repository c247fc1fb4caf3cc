#include "backend/cpu/algebra/small_matrices.h"

#include <algorithm>
#include <cmath>

#include "base/big_memory.h"
#include "base/math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/algebra/small_matrices.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.
#include "hwy/highway.h"

#ifndef NIBBLE_BACKEND_CPU_SMALL_LINALG_SCRATCH
#define NIBBLE_BACKEND_CPU_SMALL_LINALG_SCRATCH
namespace nibble::cpu {
namespace {

// Thread-local scratch, kept between calls: page faults of fresh memory would cost as much as a
// small factorisation. Calls must not nest.
float* ScratchFloats(int64_t count) {
  thread_local Scratch scratch;
  return scratch.Get<float>(count);
}

}  // namespace
}  // namespace nibble::cpu
#endif

// Matrices are kept in panels: a few neighbouring columns each, row after row. Everything is then a
// product A^T B of some columns of one panel with another panel, both read from front to back.
HWY_BEFORE_NAMESPACE();
namespace nibble::cpu {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = hn::CappedTag<float, 16>;

constexpr int64_t kGramDepth = 128;  // rows of X at a time: a panel of them is 16 KiB
constexpr int64_t kBlock = 16;       // rows of a factor that are computed together
constexpr int64_t kMaxWidth = 32;    // of a panel, with the widest vectors

int64_t Lanes() { return static_cast<int64_t>(hn::Lanes(Floats())); }
int64_t PanelWidth() { return 2 * Lanes(); }

enum class Then { kAdd, kSubtractFrom, kSet };

// to[kRows, panel width] = from + A^T B (kAdd), from - A^T B (kSubtractFrom) or A^T B (kSet), over
// `depth` rows of two panels; row i of a tile belongs to column i of A. Without kLeft the first
// half of the columns is skipped.
template <int kRows, Then kThen, bool kLeft = true>
HWY_INLINE void Tile(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, int64_t depth,
                     const float* from, float* to, int64_t stride) {
  static_assert(kRows == 4 || kRows == 8);
  const Floats d;
  const int64_t lanes = Lanes();
  auto sum00 = hn::Zero(d), sum01 = hn::Zero(d), sum10 = hn::Zero(d), sum11 = hn::Zero(d);
  auto sum20 = hn::Zero(d), sum21 = hn::Zero(d), sum30 = hn::Zero(d), sum31 = hn::Zero(d);
  auto sum40 = hn::Zero(d), sum41 = hn::Zero(d), sum50 = hn::Zero(d), sum51 = hn::Zero(d);
  auto sum60 = hn::Zero(d), sum61 = hn::Zero(d), sum70 = hn::Zero(d), sum71 = hn::Zero(d);
  for (int64_t row = 0; row < depth; ++row, a += 2 * lanes, b += 2 * lanes) {
    const auto b0 = kLeft ? hn::Load(d, b) : hn::Zero(d);
    const auto b1 = hn::Load(d, b + lanes);
    const auto add = [&](int i, auto& sum0, auto& sum1) HWY_ATTR {
      const auto factor = hn::Set(d, a[i]);
      if constexpr (kLeft) sum0 = hn::MulAdd(factor, b0, sum0);
      sum1 = hn::MulAdd(factor, b1, sum1);
    };
    add(0, sum00, sum01);
    add(1, sum10, sum11);
    add(2, sum20, sum21);
    add(3, sum30, sum31);
    if constexpr (kRows == 8) {
      add(4, sum40, sum41);
      add(5, sum50, sum51);
      add(6, sum60, sum61);
      add(7, sum70, sum71);
    }
  }
  const auto combine = [&](const float* old, auto sum) HWY_ATTR {
    if constexpr (kThen == Then::kSet) return sum;
    if constexpr (kThen == Then::kSubtractFrom) return hn::Sub(hn::LoadU(d, old), sum);
    return hn::Add(hn::LoadU(d, old), sum);
  };
  const auto store = [&](int64_t i, auto sum0, auto sum1) HWY_ATTR {
    const int64_t at = i * stride;
    if constexpr (kLeft) hn::StoreU(combine(from + at, sum0), d, to + at);
    hn::StoreU(combine(from + at + lanes, sum1), d, to + at + lanes);
  };
  store(0, sum00, sum01);
  store(1, sum10, sum11);
  store(2, sum20, sum21);
  store(3, sum30, sum31);
  if constexpr (kRows == 8) {
    store(4, sum40, sum41);
    store(5, sum50, sum51);
    store(6, sum60, sum61);
    store(7, sum70, sum71);
  }
}

// Splits a triangle evenly: panels are dealt in snake order, because early panels are longer.
bool IsMine(int64_t panel, int64_t part, int64_t parts) {
  const int64_t place = panel % parts;
  return part == (panel / parts % 2 == 0 ? place : parts - 1 - place);
}

// Row `from` [cols], from panel `first` on, to row `row` of panels of kGramDepth rows; zeros after
// its end.
void PackRow(const float* from, int64_t cols, int64_t first, int64_t row, float* panels) {
  const Floats d;
  const int64_t width = PanelWidth();
  float* to = panels + (first * kGramDepth + row) * width;
  int64_t col = first * width;
  for (; col + width <= cols; col += width, to += kGramDepth * width) {
    hn::Store(hn::LoadU(d, from + col), d, to);
    hn::Store(hn::LoadU(d, from + col + Lanes()), d, to + Lanes());
  }
  if (col < cols) std::fill(std::copy(from + col, from + cols, to), to + width, 0.0f);
}

template <int kRows>
void AddGram(const GramInputs& inputs, int64_t part, int64_t parts, float* h) {
  const int64_t cols = inputs.cols;
  const int64_t width = PanelWidth();
  const int64_t count = CeilDiv(cols, width);
  int64_t first_panel = 0;
  while (first_panel < count && !IsMine(first_panel, part, parts)) ++first_panel;
  if (first_panel == count) return;
  float* const partial = ScratchFloats((kRows + count * kGramDepth) * width);
  float* const panels = partial + kRows * width;

  for (int64_t first = 0; first < inputs.count; first += kGramDepth) {
    const int64_t depth = std::min(kGramDepth, inputs.count - first);
    for (int64_t row = 0; row < depth; ++row) {
      const int64_t index = inputs.rows == nullptr ? first + row : inputs.rows[first + row];
      PackRow(inputs.x + index * cols, cols, first_panel, row, panels);
    }
    for (int64_t i = first_panel; i < count; ++i) {
      if (!IsMine(i, part, parts)) continue;
      for (int64_t j = i; j < count; ++j) {
        const float* const b = panels + j * kGramDepth * width;
        const int64_t columns = std::min(width, cols - j * width);
        for (int64_t row = 0; row < std::min(width, cols - i * width); row += kRows) {
          const float* const a = panels + i * kGramDepth * width + row;
          const int64_t h_row = i * width + row;
          float* const out = h + h_row * cols + j * width;
          if (j > i && columns == width && h_row + kRows <= cols) {
            Tile<kRows, Then::kAdd>(a, b, depth, out, out, cols);
            continue;
          }
          if (j == i && row >= Lanes()) {
            Tile<kRows, Then::kSet, false>(a, b, depth, nullptr, partial, width);
          } else {
            Tile<kRows, Then::kSet>(a, b, depth, nullptr, partial, width);
          }
          for (int64_t y = 0; y < std::min<int64_t>(kRows, cols - h_row); ++y) {
            for (int64_t x = j == i ? row + y : 0; x < columns; ++x) {
              out[y * cols + x] += partial[y * width + x];
            }
          }
        }
      }
    }
  }
}

// With G the matrix H with rows and columns in reverse, G = C^T C (C upper triangular), and Y =
// C^-T, the factor U is Y in reverse again. Rows of C and of Y come from the same elimination, a
// block of rows at a time: it turns [G | I] into [C | Y]. The block's diagonal square is eliminated
// first; the right half of that, the inverse transposed square, is then applied to the rest of the
// block by a product.
template <int kRows>
class Elimination {
 public:
  Elimination(float* h, int64_t n, int64_t stride)
      : h_(h),
        n_(n),
        stride_(stride),
        width_(PanelWidth()),
        panels_(CeilDiv(n, width_)),
        size_(panels_ * width_),
        c_(ScratchFloats((2 * size_ + 2 * kBlock) * size_ + kBlock * width_)),
        y_(c_ + size_ * size_),
        block_(y_ + size_ * size_),
        inverse_(block_ + 2 * kBlock * size_) {}

  // As GptqAlgebra::InverseCholesky.
  int64_t Run() {
    ReadReversed();
    for (int64_t first = 0; first < size_; first += kBlock) {
      const int64_t own = first / width_;
      float* const blocks_of_c = block_;
      float* const blocks_of_y = block_ + kBlock * size_;
      const float* const columns = Panel(c_, own) + first % width_;
      for (int64_t p = own; p < panels_; ++p) {
        const float* const panel = Panel(c_, p);
        Subtract(columns, panel, first, panel + first * width_, blocks_of_c + p * kBlock * width_);
      }
      for (int64_t p = 0; p <= own; ++p) {
        const float* const panel = Panel(y_, p);
        const int64_t start = FirstRowOfY(p);
        Subtract(columns + start * width_, panel + start * width_, first - start,
                 panel + first * width_, blocks_of_y + p * kBlock * width_);
      }
      const int64_t bad_pivot =
          EliminateSquare(blocks_of_c + own * kBlock * width_ + first % width_);
      if (bad_pivot >= 0) return n_ - 1 - (first + bad_pivot);
      for (int64_t p = own; p < panels_; ++p) {
        Finish(blocks_of_c + p * kBlock * width_, Panel(c_, p) + first * width_);
      }
      for (int64_t p = 0; p <= own; ++p) {
        Finish(blocks_of_y + p * kBlock * width_, Panel(y_, p) + first * width_);
      }
    }
    WriteReversed();
    return -1;
  }

 private:
  float* Panel(float* matrix, int64_t panel) const { return matrix + panel * size_ * width_; }
  // Rows above are zero. A multiple of the largest width, so that sums are cut at the same rows
  // whatever the width is.
  int64_t FirstRowOfY(int64_t panel) const { return panel * width_ / kMaxWidth * kMaxWidth; }

  // The upper triangle of G, zeros below, ones on the diagonal after its end; Y starts as the
  // identity.
  void ReadReversed() {
    for (int64_t p = 0; p < panels_; ++p) {
      float* const c = Panel(c_, p);
      float* const y = Panel(y_, p);
      const int64_t first = p * width_;
      const int64_t last = std::min(first + width_, n_);
      std::fill(c + first * width_, c + (first + width_) * width_, 0.0f);
      std::fill(y + FirstRowOfY(p) * width_, y + size_ * width_, 0.0f);
      for (int64_t i = first; i < first + width_; ++i) {
        y[i * width_ + i - first] = 1;
        c[i * width_ + i - first] = 1;
      }
      if (last < first + width_) {
        for (int64_t row = 0; row < first; ++row) {
          std::fill(c + row * width_ + last - first, c + (row + 1) * width_, 0.0f);
        }
      }
      // Column `col` of G is a row of H, read from its end.
      constexpr int64_t kRun = 64;
      for (int64_t begin = 0; begin < last; begin += kRun) {
        for (int64_t col = first; col < last; ++col) {
          const float* const from = h_ + (n_ - 1 - col) * stride_ + n_ - 1;
          float* const to = c + col - first;
          for (int64_t row = begin; row < std::min(begin + kRun, col + 1); ++row) {
            to[row * width_] = from[-row];
          }
        }
      }
    }
  }

  // to = from - A^T B, kBlock rows of a panel. Blocked over the depth, so that operands stay in the
  // L1 cache.
  void Subtract(const float* a, const float* b, int64_t depth, const float* from, float* to) const {
    constexpr int64_t kDepth = 128;
    int64_t first = 0;
    do {
      const int64_t some = std::min(kDepth, depth - first);
      for (int64_t row = 0; row < kBlock; row += kRows) {
        Tile<kRows, Then::kSubtractFrom>(a + first * width_ + row, b + first * width_, some,
                                         from + row * width_, to + row * width_, width_);
      }
      from = to;
      first += kDepth;
    } while (first < depth);
  }

  // to = Z block, with the inverse transposed square of EliminateSquare.
  void Finish(const float* block, float* to) const {
    for (int64_t row = 0; row < kBlock; row += kRows) {
      Tile<kRows, Then::kSet>(inverse_ + row, block, kBlock, nullptr, to + row * width_, width_);
    }
  }

  // Eliminates [square | I], the square's rows a panel's width apart, and stores the right half,
  // transposed. Returns the index of a pivot that is not positive and finite, or -1.
  int64_t EliminateSquare(const float* square) {
    const Floats d;
    HWY_ALIGN float c[kBlock * kBlock];
    HWY_ALIGN float z[kBlock * kBlock];
    for (int64_t i = 0; i < kBlock; ++i) {
      std::copy_n(square + i * width_, kBlock, c + i * kBlock);
      std::fill_n(z + i * kBlock, kBlock, 0.0f);
      z[i * kBlock + i] = 1;
    }
    for (int64_t k = 0; k < kBlock; ++k) {
      const float pivot = c[k * kBlock + k];
      if (!(pivot > 0) || !std::isfinite(pivot)) return k;
      const auto scale = hn::Set(d, 1 / std::sqrt(pivot));
      for (int64_t j = 0; j < kBlock; j += Lanes()) {
        for (float* const row : {c + k * kBlock + j, z + k * kBlock + j}) {
          hn::Store(hn::Mul(hn::Load(d, row), scale), d, row);
        }
      }
      for (int64_t i = k + 1; i < kBlock; ++i) {
        const auto factor = hn::Set(d, c[k * kBlock + i]);
        for (int64_t j = 0; j < kBlock; j += Lanes()) {
          for (float* const matrix : {c + j, z + j}) {
            float* const row = matrix + i * kBlock;
            hn::Store(hn::NegMulAdd(factor, hn::Load(d, matrix + k * kBlock), hn::Load(d, row)), d,
                      row);
          }
        }
      }
    }
    for (int64_t i = 0; i < kBlock; ++i) {
      for (int64_t k = 0; k < kBlock; ++k) {
        inverse_[k * width_ + i] = z[i * kBlock + k];
      }
    }
    return -1;
  }

  void WriteReversed() {
    const Floats d;
    const int64_t lanes = Lanes();
    for (int64_t row = 0; row < n_; ++row) {
      float* const to = h_ + (n_ - 1 - row) * stride_ + n_ - 1;  // to[-col]
      int64_t col = 0;
      for (; col + lanes <= row + 1; col += lanes) {
        const float* const from = Panel(y_, col / width_) + row * width_ + col % width_;
        hn::StoreU(hn::Reverse(d, hn::Load(d, from)), d, to - col - (lanes - 1));
      }
      for (; col <= row; ++col) to[-col] = Panel(y_, col / width_)[row * width_ + col % width_];
    }
  }

  float* h_;
  int64_t n_, stride_;
  int64_t width_, panels_, size_;  // of a panel; in all; rows and columns with padding
  float* c_;                       // [panels, size, width]: G, and C from its first rows on
  float* y_;                       // the same of I and Y
  float* block_;                   // rows of G and I being eliminated
  float* inverse_;                 // [kBlock, width], kBlock columns used
};

void AddSmallGramTarget(const GramInputs& inputs, int64_t part, int64_t parts, float* h) {
  // As many sums as fit in registers.
  if (Lanes() == 16) return AddGram<8>(inputs, part, parts, h);
  AddGram<4>(inputs, part, parts, h);
}

// (1 + e)^2 - (1 + 2 e) is e^2, or nothing where the product is rounded first.
bool FuseTarget() {
  const Floats d;
  const auto factor = hn::Set(d, 1 + 0x1p-12f);
  return hn::GetLane(hn::MulAdd(factor, factor, hn::Set(d, -1 - 0x1p-11f))) != 0;
}

int64_t SmallInverseCholeskyTarget(float* h, int64_t n, int64_t stride) {
  if (Lanes() == 16) return Elimination<8>(h, n, stride).Run();
  return Elimination<4>(h, n, stride).Run();
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace nibble::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nibble::cpu {

HWY_EXPORT(AddSmallGramTarget);
HWY_EXPORT(FuseTarget);
HWY_EXPORT(SmallInverseCholeskyTarget);

bool SmallMatricesFuse() { return HWY_DYNAMIC_DISPATCH(FuseTarget)(); }

void AddSmallGram(const GramInputs& inputs, int part, int parts, float* h) {
  HWY_DYNAMIC_DISPATCH(AddSmallGramTarget)(inputs, part, parts, h);
}

int64_t SmallInverseCholesky(float* h, int64_t n, int64_t stride) {
  return HWY_DYNAMIC_DISPATCH(SmallInverseCholeskyTarget)(h, n, stride);
}

}  // namespace nibble::cpu
#endif
