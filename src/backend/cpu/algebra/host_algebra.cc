#include "backend/cpu/algebra/host_algebra.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <optional>

#include "backend/cpu/algebra/openblas.h"
#include "backend/cpu/algebra/small_matrices.h"
#include "backend/cpu/algebra/split_product.h"
#include "backend/host/host_data.h"
#include "base/big_memory.h"
#include "base/math.h"

namespace nibble {
namespace {

// Side of a Gram tile. Large tiles repay OpenBLAS's packing; smaller matrices are divided so that
// all threads have work. A function of the size alone: results must not depend on the number of
// threads.
int64_t GramTile(int64_t n) {
  if (n <= 2048) return 512;
  if (n <= 4096) return 768;
  return 1536;
}

// Rows of X per product: packing wide rows is slow when they spread over too many memory pages.
constexpr int64_t kGramRows = 512;
constexpr int64_t kGatheredRows = 2048;

// Up to this size a Gram update or a factorisation is done by small_matrices.h.
constexpr int64_t kSmallGram = 1024;
constexpr int64_t kSmallFactor = 512;

// The number of rows that a step of the recursive factorisation splits off.
int64_t TopRows(int64_t n) {
  constexpr int64_t kMaxRows = 2048;
  return std::min(kMaxRows, RoundUp(n / 2, 64));
}

// Floats of scratch that rows are gathered in, and that a factorisation needs.
int64_t GatheredFloats(int64_t count, int64_t n) { return std::min(kGatheredRows, count) * n; }
int64_t FactorFloats(int64_t n) { return TopRows(n) * (n - TopRows(n)); }

class HostAlgebra : public GptqAlgebra {
 public:
  HostAlgebra(ThreadPool& pool, std::string_view instruction_set)
      : pool_(&pool),
        instruction_set_(instruction_set),
        tiles_((instruction_set.empty() || instruction_set == "amx") && cpu::HasTileProducts()) {}

  ThreadPool& threads() override { return *pool_; }
  void GramUpdate(const Activation& x, const int32_t* rows, int64_t first, int64_t count,
                  float* h) override;
  int64_t InverseCholesky(float* h, int64_t n) override;
  void TransposedMultiplyAdd(float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
                             float* c, int64_t ldc, int64_t m, int64_t n, int64_t k) override;
  std::string signature() const override;
  int64_t GramScratchBytes(int64_t count, int64_t n) const override;
  int64_t FactorScratchBytes(int64_t n) const override;

 private:
  // Loaded on first use, since running a model needs no OpenBLAS. May be called from any thread.
  const OpenBlas& Blas() const {
    std::call_once(blas_loaded_, [&] { blas_.emplace(instruction_set_); });
    return *blas_;
  }
  // C[m, n] += alpha op(A) op(B), as OpenBlas::Gemm.
  void Multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
                const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc);
  // C[m, n] = A V^T, A [m, k] and V [n, k] upper triangular.
  void TimesTransposedUpper(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
                            const float* v, int64_t ldv, float* c, int64_t ldc);
  // C[m, n] = A V, A [m, k] and V [k, n], whose last n rows are upper triangular.
  void TimesUpper(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* v,
                  int64_t ldv, float* c, int64_t ldc);
  void LargeGramUpdate(const float* x, int64_t rows, int64_t cols, float* h);
  int64_t Factor(float* h, int64_t n, int64_t stride, int64_t leaf, float* scratch);

  ThreadPool* pool_;
  const std::string instruction_set_;
  const bool tiles_;
  mutable std::once_flag blas_loaded_;
  mutable std::optional<OpenBlas> blas_;
  Scratch gathered_;
  Scratch scratch_;
};

std::string HostAlgebra::signature() const {
  const std::string& core = Blas().core();
  const char* const set = tiles_               ? "amx"
                          : core == "SkylakeX" ? "avx512"
                          : core == "Haswell"  ? "avx2"
                                               : "portable";
  return fmt::format("{}: OpenBLAS {} {}{}{}", set, Blas().version(), core,
                     tiles_ ? ", split bf16 on matrix tiles" : "",
                     cpu::SmallMatricesFuse() ? "" : ", no fused multiply-add");
}

void HostAlgebra::GramUpdate(const Activation& activation, const int32_t* rows, int64_t first_row,
                             int64_t count, float* h) {
  const int64_t cols = activation.cols;
  const float* const x = rows == nullptr ? HostRow(activation, first_row) : HostData(activation);
  if (cols <= kSmallGram) {
    const int64_t parts =
        pool_->InBody() ? 1 : std::min<int64_t>(pool_->num_threads(), CeilDiv(cols, 64));
    const cpu::GramInputs inputs{.x = x, .rows = rows, .count = count, .cols = cols};
    pool_->ParallelFor(parts, [&](int64_t part, int) {
      cpu::AddSmallGram(inputs, static_cast<int>(part), static_cast<int>(parts), h);
    });
    return;
  }
  if (rows == nullptr) return LargeGramUpdate(x, count, cols, h);
  Scratch own;
  float* const gathered =
      (pool_->InBody() ? own : gathered_).Get<float>(GatheredFloats(count, cols));
  for (int64_t first = 0; first < count; first += kGatheredRows) {
    const int64_t some = std::min(kGatheredRows, count - first);
    pool_->ParallelFor(some, [&](int64_t i, int) {
      std::copy_n(x + rows[first + i] * cols, cols, gathered + i * cols);
    });
    LargeGramUpdate(gathered, some, cols, h);
  }
}

void HostAlgebra::LargeGramUpdate(const float* x, int64_t rows, int64_t cols, float* h) {
  const int64_t side = GramTile(cols);
  const int64_t count = CeilDiv(cols, side);
  const auto size = [&](int64_t tile) { return std::min(side, cols - tile * side); };
  // Off-diagonal tiles first: they cost twice as much, and the last tasks should be small for load
  // balance.
  const int64_t num_off = count * (count - 1) / 2;
  pool_->ParallelFor(num_off + count, [&](int64_t index, int) {
    int64_t i = 0;
    int64_t j = index - num_off;
    if (index < num_off) {
      for (j = 1; index >= j; ++j) index -= j;  // column j has j tiles above its diagonal
      i = index;
    } else {
      i = j;
    }
    float* const tile = h + i * side * cols + j * side;
    if (tiles_) {
      const cpu::TileOperand left{.data = x + i * side, .stride = cols, .depth_major = true};
      const cpu::TileOperand right{.data = x + j * side, .stride = cols, .depth_major = true};
      cpu::TileProduct(left, right, size(i), size(j), rows, 1.0f,
                       {.data = tile, .stride = cols, .upper_only = i == j});
      return;
    }
    for (int64_t row = 0; row < rows; row += kGramRows) {
      const int64_t k = std::min(kGramRows, rows - row);
      const float* const slice = x + row * cols;
      if (i == j) {
        Blas().GramUpper(size(j), k, slice + j * side, cols, tile, cols);
      } else {
        Blas().Gemm(true, false, size(i), size(j), k, 1.0f, slice + i * side, cols,
                    slice + j * side, cols, tile, cols);
      }
    }
  });
}

void HostAlgebra::TransposedMultiplyAdd(float alpha, const float* a, int64_t lda, const float* b,
                                        int64_t ldb, float* c, int64_t ldc, int64_t m, int64_t n,
                                        int64_t k) {
  constexpr int64_t kRows = 512;
  pool_->ParallelFor(CeilDiv(m, kRows), [&](int64_t index, int) {
    const int64_t row = index * kRows;
    Multiply(true, false, std::min(kRows, m - row), n, k, alpha, a + row, lda, b, ldb,
             c + row * ldc, ldc);
  });
}

void HostAlgebra::Multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                           float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
                           float* c, int64_t ldc) {
  if (!tiles_) {
    Blas().Gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, c, ldc);
    return;
  }
  cpu::TileProduct({.data = a, .stride = lda, .depth_major = transpose_a},
                   {.data = b, .stride = ldb, .depth_major = !transpose_b}, m, n, k, alpha,
                   {.data = c, .stride = ldc});
}

void HostAlgebra::TimesTransposedUpper(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
                                       const float* v, int64_t ldv, float* c, int64_t ldc) {
  if (tiles_) {
    cpu::TileProduct({.data = a, .stride = lda}, {.data = v, .stride = ldv, .upper = true}, m, n, k,
                     1.0f, {.data = c, .stride = ldc, .set = true});
    return;
  }
  for (int64_t row = 0; row < m; ++row) std::copy_n(a + row * lda, n, c + row * ldc);
  Blas().MultiplyByUpper(true, m, n, v, ldv, c, ldc);
  Blas().Gemm(false, true, m, n, k - n, 1.0f, a + n, lda, v + n, ldv, c, ldc);
}

void HostAlgebra::TimesUpper(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
                             const float* v, int64_t ldv, float* c, int64_t ldc) {
  if (tiles_) {
    cpu::TileProduct(
        {.data = a, .stride = lda},
        {.data = v, .stride = ldv, .depth_major = true, .upper = true, .upper_from = k - n}, m, n,
        k, 1.0f, {.data = c, .stride = ldc, .set = true});
    return;
  }
  for (int64_t row = 0; row < m; ++row) std::copy_n(a + row * lda + k - n, n, c + row * ldc);
  Blas().MultiplyByUpper(false, m, n, v + (k - n) * ldv, ldv, c, ldc);
  Blas().Gemm(false, false, m, n, k - n, 1.0f, a, lda, v, ldv, c, ldc);
}

int64_t HostAlgebra::GramScratchBytes(int64_t count, int64_t n) const {
  return n <= kSmallGram ? 0 : GatheredFloats(count, n) * static_cast<int64_t>(sizeof(float));
}

int64_t HostAlgebra::FactorScratchBytes(int64_t n) const {
  return n <= kSmallFactor ? 0 : FactorFloats(n) * static_cast<int64_t>(sizeof(float));
}

int64_t HostAlgebra::InverseCholesky(float* h, int64_t n) {
  if (n <= kSmallFactor) return cpu::SmallInverseCholesky(h, n, n);
  Scratch own;
  float* const scratch = (pool_->InBody() ? own : scratch_).Get<float>(FactorFloats(n));
  return Factor(h, n, n, n <= 4096 ? 256 : kSmallFactor, scratch);
}

// Blocked and recursive, in place. With
//
//   H = [ A    B ]    D^-1 = V^T V (known),    P = B V^T,    S = A - P P^T,    S^-1 = T^T T,
//       [ B^T  D ]
//
// the factor of H^-1 is  [ T  -T P V ]
//                        [ 0     V   ].
//
// Neither the inverse of H nor its own Cholesky factor is ever formed, and nearly all of the work
// is long matrix products, whose tiles are a function of the size alone.
int64_t HostAlgebra::Factor(float* h, int64_t n, int64_t stride, int64_t leaf, float* p) {
  if (n <= leaf) return cpu::SmallInverseCholesky(h, n, stride);
  const int64_t top = TopRows(n);
  const int64_t rest = n - top;
  float* const b = h + top;
  float* const v = h + top * stride + top;
  if (const int64_t bad = Factor(v, rest, stride, leaf, p); bad >= 0) return top + bad;

  const int64_t side = std::clamp<int64_t>(top / 2, 128, 512);
  const int64_t rows = CeilDiv(top, side);
  const int64_t cols = CeilDiv(rest, side);
  struct Tile {
    int64_t row, col, height, width;
  };
  const auto tile_at = [&](int64_t i, int64_t j) {
    return Tile{i * side, j * side, std::min(side, top - i * side),
                std::min(side, rest - j * side)};
  };

  // Computes P. The first columns take the longest.
  pool_->ParallelFor(rows * cols, [&](int64_t index, int) {
    const Tile tile = tile_at(index % rows, index / rows);
    TimesTransposedUpper(tile.height, tile.width, rest - tile.col, b + tile.row * stride + tile.col,
                         stride, v + tile.col * stride + tile.col, stride,
                         p + tile.row * rest + tile.col, rest);
  });
  // Computes S.
  const int64_t s_side = std::clamp<int64_t>(top / 4, 128, 512);
  const int64_t s_tiles = CeilDiv(top, s_side);
  const int64_t num_off = s_tiles * (s_tiles - 1) / 2;
  pool_->ParallelFor(num_off + s_tiles, [&](int64_t index, int) {
    int64_t j = index - num_off;
    int64_t i = j;
    if (index < num_off) {
      for (j = 1; index >= j; ++j) index -= j;
      i = index;
    }
    const int64_t row = i * s_side, col = j * s_side;
    const int64_t width = std::min(s_side, top - col);
    float* const s = h + row * stride + col;
    if (i < j) {
      Multiply(false, true, s_side, width, rest, -1.0f, p + row * rest, rest, p + col * rest, rest,
               s, stride);
    } else if (tiles_) {
      const cpu::TileOperand factor{.data = p + row * rest, .stride = rest};
      cpu::TileProduct(factor, factor, width, width, rest, -1.0f,
                       {.data = s, .stride = stride, .upper_only = true});
    } else {
      Blas().SubtractOuter(width, rest, p + row * rest, rest, s, stride);
    }
  });
  // Replaces B by P V. The last columns take the longest.
  pool_->ParallelFor(rows * cols, [&](int64_t index, int) {
    const Tile tile = tile_at(index % rows, cols - 1 - index / rows);
    TimesUpper(tile.height, tile.width, tile.col + tile.width, p + tile.row * rest, rest,
               v + tile.col, stride, b + tile.row * stride + tile.col, stride);
  });
  // The scratch is free again.
  if (const int64_t bad = Factor(h, top, stride, leaf, p); bad >= 0) return bad;
  if (!tiles_) {
    pool_->ParallelFor(cols, [&](int64_t j, int) {
      Blas().NegatedUpperTimes(top, std::min(side, rest - j * side), h, stride, b + j * side,
                               stride);
    });
    return -1;
  }
  pool_->ParallelFor(
      top, [&](int64_t row, int) { std::copy_n(b + row * stride, rest, p + row * rest); });
  pool_->ParallelFor(rows * cols, [&](int64_t index, int) {
    const Tile tile = tile_at(index / cols, index % cols);
    const cpu::TileOperand left{
        .data = h + tile.row * stride + tile.row, .stride = stride, .upper = true};
    const cpu::TileOperand right{
        .data = p + tile.row * rest + tile.col, .stride = rest, .depth_major = true};
    cpu::TileProduct(left, right, tile.height, tile.width, top - tile.row, -1.0f,
                     {.data = b + tile.row * stride + tile.col, .stride = stride, .set = true});
  });
  return -1;
}

}  // namespace

std::unique_ptr<GptqAlgebra> MakeHostAlgebra(ThreadPool& pool, std::string_view instruction_set) {
  return std::make_unique<HostAlgebra>(pool, instruction_set);
}

}  // namespace nibble
