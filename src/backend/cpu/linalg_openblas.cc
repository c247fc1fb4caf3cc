#include "backend/cpu/linalg_openblas.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/openblas.h"

namespace nibble {
namespace {

// Side of a Gram tile. Large tiles repay OpenBLAS's packing; small matrices are cut so that at
// least two threads find work. A function of the size alone: results must not depend on the
// threads.
int64_t GramTile(int64_t n) {
  if (n <= 256) return 128;
  if (n <= 1024) return 384;
  if (n <= 4096) return 768;
  return 1536;
}

// Rows of X taken at a time: packing wide rows is slow when they spread over too many pages.
constexpr int64_t kGramRows = 512;

int64_t FactorTile(int64_t n) {
  if (n <= 512) return 128;
  if (n <= 4096) return 256;
  return 512;
}

size_t Index(int64_t row, int64_t col, int64_t cols) {
  return static_cast<size_t>(row * cols + col);
}

class OpenBlasLinalg : public Linalg {
 public:
  explicit OpenBlasLinalg(ThreadPool& pool) : pool_(&pool) {}

  void GramUpdate(const float* x, int64_t rows, int64_t cols, float* h) override;
  int64_t InverseCholesky(float* h, int64_t n) override;
  void TransposedMultiplyAdd(float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
                             float* c, int64_t ldc, int64_t m, int64_t n, int64_t k) override;
  void ParallelFor(int64_t count, const std::function<void(int64_t, int)>& body) override;
  int num_threads() const override { return pool_->num_threads(); }

 private:
  // The matrix is seen as tiles of `side`; the last one in each direction may be smaller.
  struct Tiles {
    float* h;
    int64_t n;
    int64_t side;
    int64_t count() const { return (n + side - 1) / side; }
    int64_t first(int64_t tile) const { return tile * side; }
    int64_t size(int64_t tile) const { return std::min(side, n - tile * side); }
    float* row(int64_t tile) const { return h + first(tile) * n; }
    float* at(int64_t row_tile, int64_t col_tile) const {
      return h + first(row_tile) * n + first(col_tile);
    }
  };

  int64_t FactorFromTheEnd(const Tiles& tiles);
  void InvertUpper(const Tiles& tiles);

  ThreadPool* pool_;
  OpenBlas blas_;
  bool inside_ = false;  // a ParallelFor is running; its bodies may read this
};

void OpenBlasLinalg::ParallelFor(int64_t count, const std::function<void(int64_t, int)>& body) {
  if (inside_) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  struct Scope {
    bool* flag;
    explicit Scope(bool* f) : flag(f) { *flag = true; }
    ~Scope() { *flag = false; }
  };
  const Scope scope(&inside_);
  pool_->ParallelFor(count, body);
}

void OpenBlasLinalg::GramUpdate(const float* x, int64_t rows, int64_t cols, float* h) {
  const Tiles tiles{h, cols, GramTile(cols)};
  const int64_t count = tiles.count();
  // Off-diagonal tiles first: they cost twice as much, and what is left for last should be small.
  const int64_t num_off = count * (count - 1) / 2;
  ParallelFor(num_off + count, [&](int64_t index, int) {
    int64_t i = 0;
    int64_t j = index - num_off;
    if (index < num_off) {
      for (j = 1; index >= j; ++j) index -= j;  // column j has j tiles above its diagonal
      i = index;
    } else {
      i = j;
    }
    for (int64_t row = 0; row < rows; row += kGramRows) {
      const int64_t k = std::min(kGramRows, rows - row);
      const float* const slice = x + row * cols;
      if (i == j) {
        blas_.GramUpper(tiles.size(j), k, slice + tiles.first(j), cols, tiles.at(j, j), cols);
      } else {
        blas_.Gemm(true, false, tiles.size(i), tiles.size(j), k, 1.0f, slice + tiles.first(i), cols,
                   slice + tiles.first(j), cols, tiles.at(i, j), cols);
      }
    }
  });
}

void OpenBlasLinalg::TransposedMultiplyAdd(float alpha, const float* a, int64_t lda, const float* b,
                                           int64_t ldb, float* c, int64_t ldc, int64_t m, int64_t n,
                                           int64_t k) {
  constexpr int64_t kRows = 512;
  ParallelFor((m + kRows - 1) / kRows, [&](int64_t index, int) {
    const int64_t row = index * kRows;
    blas_.Gemm(true, false, std::min(kRows, m - row), n, k, alpha, a + row, lda, b, ldb,
               c + row * ldc, ldc);
  });
}

int64_t OpenBlasLinalg::InverseCholesky(float* h, int64_t n) {
  const Tiles tiles{h, n, FactorTile(n)};
  const int64_t bad_pivot = FactorFromTheEnd(tiles);
  if (bad_pivot < 0) InvertUpper(tiles);
  return bad_pivot;
}

// H = R R^T with R upper triangular, the Cholesky factorisation that starts at the last row, in the
// upper triangle of H. Then H^-1 = R^-T R^-1, so that R^-1 is the factor GPTQ wants, and the
// inverse of H is never formed. Left-looking: a tile is written once, after one long product.
int64_t OpenBlasLinalg::FactorFromTheEnd(const Tiles& tiles) {
  const int64_t n = tiles.n;
  const size_t tile_elements = static_cast<size_t>(tiles.side * tiles.side);
  std::vector<float> product(tile_elements);
  std::vector<float> reversed(tile_elements);
  for (int64_t j = tiles.count() - 1; j >= 0; --j) {
    const int64_t size = tiles.size(j);
    const int64_t after = tiles.first(j) + size;  // columns [after, n) are done
    std::fill(product.begin(), product.end(), 0.0f);
    ParallelFor(j + 1, [&](int64_t i, int) {
      blas_.Gemm(false, true, tiles.size(i), size, n - after, -1.0f, tiles.row(i) + after, n,
                 tiles.row(j) + after, n, i == j ? product.data() : tiles.at(i, j),
                 i == j ? size : n);
    });

    // LAPACK factors from the first row on: turn the tile around, factor it, turn it back.
    float* const tile = tiles.at(j, j);
    for (int64_t a = 0; a < size; ++a) {
      for (int64_t b = a; b < size; ++b) {
        reversed[Index(size - 1 - a, size - 1 - b, size)] =
            tile[a * n + b] + product[Index(a, b, size)];
      }
    }
    const int64_t bad_pivot = blas_.CholeskyLower(size, reversed.data(), size);
    if (bad_pivot >= 0) return tiles.first(j) + size - 1 - bad_pivot;
    for (int64_t a = 0; a < size; ++a) {
      for (int64_t b = a; b < size; ++b) {
        tile[a * n + b] = reversed[Index(size - 1 - a, size - 1 - b, size)];
      }
    }

    ParallelFor(j, [&](int64_t i, int) {
      blas_.SolveUpperRight(true, tiles.size(i), size, 1.0f, tile, n, tiles.at(i, j), n);
    });
  }
  return -1;
}

// R := R^-1 in the upper triangle, one column of tiles after the other: with the columns before it
// inverted, column j becomes -R^-1[0:j, 0:j] R[0:j, j] R[j, j]^-1.
void OpenBlasLinalg::InvertUpper(const Tiles& tiles) {
  const int64_t n = tiles.n;
  const int64_t side = tiles.side;
  std::vector<float> column(static_cast<size_t>(n * side));  // R[0:j, j] before it is overwritten
  std::vector<float> diagonals(static_cast<size_t>(n * side));  // inverted tiles, zero below
  for (int64_t j = 0; j < tiles.count(); ++j) {
    const int64_t size = tiles.size(j);
    const int64_t above = tiles.first(j);
    float* const tile = tiles.at(j, j);
    ParallelFor(j, [&](int64_t i, int) {
      for (int64_t row = tiles.first(i); row < tiles.first(i) + side; ++row) {
        float* const values = tiles.h + row * n + above;
        std::copy(values, values + size, column.data() + row * size);
        std::fill(values, values + size, 0.0f);
      }
    });
    ParallelFor(j, [&](int64_t i, int) {
      const int64_t first = tiles.first(i);
      const int64_t next = first + side;
      float* const target = tiles.at(i, j);
      blas_.Gemm(false, false, side, size, side, -1.0f, diagonals.data() + first * side, side,
                 column.data() + first * size, size, target, n);
      blas_.Gemm(false, false, side, size, above - next, -1.0f, tiles.h + first * n + next, n,
                 column.data() + next * size, size, target, n);
      blas_.SolveUpperRight(false, side, size, 1.0f, tile, n, target, n);
    });
    blas_.InvertUpper(size, tile, n);
    for (int64_t a = 0; a < size; ++a) {
      std::copy(tile + a * n + a, tile + a * n + size, diagonals.data() + (above + a) * side + a);
    }
  }
}

}  // namespace

std::unique_ptr<Linalg> MakeOpenBlasLinalg(ThreadPool& pool) {
  return std::make_unique<OpenBlasLinalg>(pool);
}

}  // namespace nibble
