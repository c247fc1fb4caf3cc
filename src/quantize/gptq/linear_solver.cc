#include "quantize/gptq/linear_solver.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/big_memory.h"
#include "base/check.h"
#include "base/math.h"
#include "quantize/gptq/sweep.h"

namespace nibble {
namespace {

constexpr int64_t kFarColumns = 512;
constexpr int64_t kMaxSampledRows = 64;  // for the error figures

size_t Size(int64_t value) { return static_cast<size_t>(value); }

// The row of sample `index` of `count` evenly spaced ones.
int64_t SampledRow(int64_t index, int64_t count, int64_t rows) { return index * rows / count; }

// Long chunks make the matrix products efficient; short ones give all threads work on small
// Linears.
int64_t ChunkRows(int64_t rows) {
  return (rows >= 4096 ? 8 : rows >= 2048 ? 4 : 1) * kSweepRowMultiple;
}

// How a chunk of `rows` rows is swept.
struct ChunkShape {
  ChunkShape(const Recipe& recipe, int64_t chunk_rows, int64_t num_cols)
      : rows(chunk_rows),
        padded(RoundUp(chunk_rows, kSweepRowMultiple)),
        cols(num_cols),
        block_size(std::min(recipe.block_size, num_cols)),
        far(std::max<int64_t>(1, kFarColumns / block_size) * block_size),
        num_groups(num_cols / recipe.GroupSize(num_cols)) {}

  // Of the arrays that SolveChunk takes.
  int64_t size_bytes() const {
    const int64_t floats =
        rows * cols + padded * (cols + far) + cols + (2 * num_groups + 1) * padded;
    return floats * int64_t{sizeof(float)} + (rows + padded) * cols;
  }

  int64_t rows;
  int64_t padded;  // rows of the transposed chunk
  int64_t cols;
  int64_t block_size;
  int64_t far;  // columns whose errors are spread to those after them together: deeper products
  int64_t num_groups;
};

// to [cols, to_rows] = from [rows, cols] with its columns in `order`; rows after `rows` become
// zero.
void TransposeInOrder(const float* from, int64_t rows, int64_t cols, std::span<const int32_t> order,
                      int64_t to_rows, float* to) {
  constexpr int64_t kTile = 32;
  for (int64_t first = 0; first < cols; first += kTile) {
    const int64_t last = std::min(first + kTile, cols);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = first; i < last; ++i) {
        to[i * to_rows + row] = from[row * cols + order[i]];
      }
    }
    for (int64_t i = first; i < last; ++i) {
      std::fill(to + i * to_rows + rows, to + (i + 1) * to_rows, 0.0f);
    }
  }
}

// to [rows, cols] = from [cols, from_rows], whose columns stand in `order`.
void TransposeBack(const int8_t* from, int64_t rows, int64_t cols, std::span<const int32_t> order,
                   int64_t from_rows, int8_t* to) {
  constexpr int64_t kTile = 16;  // rows; in wide matrices more would map to the same cache sets
  for (int64_t first = 0; first < rows; first += kTile) {
    const int64_t last = std::min(first + kTile, rows);
    for (int64_t i = 0; i < cols; ++i) {
      for (int64_t row = first; row < last; ++row) {
        to[row * cols + order[i]] = from[i * from_rows + row];
      }
    }
  }
}

struct Squares {
  double error = 0;
  double norm = 0;
};

// Sums of (weight - decoded)^2 and weight^2. Accumulated in parallel float lanes, which are added
// to doubles before rounding matters.
Squares SumSquares(const float* weights, const float* decoded, int64_t count) {
  constexpr int64_t kLanes = 16;
  constexpr int64_t kRun = 128;
  Squares sums;
  for (int64_t first = 0; first < count; first += kRun) {
    const int64_t last = std::min(first + kRun, count);
    float errors[kLanes] = {};
    float norms[kLanes] = {};
    int64_t k = first;
    for (; k + kLanes <= last; k += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const float weight = weights[k + lane];
        const float error = weight - decoded[k + lane];
        errors[lane] += error * error;
        norms[lane] += weight * weight;
      }
    }
    for (; k < last; ++k) {
      const float error = weights[k] - decoded[k];
      errors[0] += error * error;
      norms[0] += weights[k] * weights[k];
    }
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sums.error += static_cast<double>(errors[lane]);
      sums.norm += static_cast<double>(norms[lane]);
    }
  }
  return sums;
}

bool AllFinite(const float* values, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000u;
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    bad |= (std::bit_cast<uint32_t>(values[i]) & kExponent) == kExponent ? 1u : 0u;
  }
  return bad == 0;
}

// The arrays of a chunk, cut from memory that its thread keeps from chunk to chunk.
class ChunkArrays {
 public:
  explicit ChunkArrays(size_t bytes) {
    thread_local Scratch memory;
    const size_t size = bytes + kMaxArrays * kAlignment;
    next_ = memory.Get<std::byte>(static_cast<int64_t>(size));
    end_ = next_ + size;
  }

  // May be called kMaxArrays times. The memory is not cleared.
  template <typename T>
  std::span<T> Take(int64_t count) {
    T* const first = reinterpret_cast<T*>(next_);
    next_ += RoundUp(Size(count) * sizeof(T), kAlignment);
    NIBBLE_CHECK(next_ <= end_);
    return {first, Size(count)};
  }

 private:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kMaxArrays = 16;
  std::byte* next_;
  const std::byte* end_;
};

}  // namespace

LinearSolver::LinearSolver(const Recipe& recipe, DType scale_dtype, const DenseLinear& linear,
                           const HessianFactor* factor)
    : recipe_(&recipe), scale_dtype_(scale_dtype), linear_(&linear), factor_(factor) {
  NIBBLE_CHECK(linear.weight.shape().rank() == 2);
  rows_ = linear.weight.shape()[0];
  cols_ = linear.weight.shape()[1];
  group_size_ = recipe.GroupSize(cols_);
  num_groups_ = recipe.NumGroups(linear.module, cols_);
  NIBBLE_CHECK(factor == nullptr || factor->size() == cols_);
  chunk_rows_ = ChunkRows(rows_);

  order_.resize(cols_);
  group_at_.resize(cols_);
  group_of_.resize(cols_);
  const bool ordered_groups = recipe.act_order == ActOrder::kGroup && factor != nullptr;
  for (int64_t i = 0; i < cols_; ++i) {
    const int32_t column = factor != nullptr ? factor->order()[i] : static_cast<int32_t>(i);
    order_[i] = column;
    group_at_[i] = static_cast<int32_t>((ordered_groups ? i : column) / group_size_);
    group_of_[column] = group_at_[i];
  }
  if (factor != nullptr) {
    for (int32_t k = 0; k < cols_; ++k) {
      if (factor->is_dead(k)) dead_columns_.push_back(k);
    }
  }
  if (recipe.observer == Observer::kImatrixMse) {
    if (factor != nullptr) {
      importance_.assign(factor->diagonal().begin(), factor->diagonal().end());
    } else {
      importance_.assign(cols_, 1.0f);
    }
  }

  packed_.bits = recipe.bits;
  packed_.rows = rows_;
  packed_.cols = cols_;
  packed_.group_size = group_size_;
  packed_.packed = Tensor(DType::kI32, Shape{rows_, CeilDiv(cols_ * recipe.bits, 32)});
  packed_.scales = Tensor(scale_dtype, Shape{rows_, num_groups_});
  if (ordered_groups) packed_.g_idx = Tensor::FromVector(group_of_, Shape{cols_});
  if (!recipe.symmetric) zero_points_.resize(rows_ * num_groups_);
  losses_.resize(rows_);
  output_errors_.resize(rows_);
  weight_errors_.resize(rows_);
  weight_norms_.resize(rows_);
}

void LinearSolver::ReadRows(int64_t first, int64_t count, float* out) const {
  const TensorView rows = linear_->weight.Rows(first, count);
  ToFloat(rows, std::span(out, Size(count * cols_)));
  if (AllFinite(out, count * cols_)) return;
  for (int64_t i = 0; i < count * cols_; ++i) {
    if (!std::isfinite(out[i])) {
      throw Error(
          ErrorCode::kInvalidData,
          fmt::format("{}.weight: the value at [{}, {}] is {}; a checkpoint with such weights "
                      "cannot be quantized",
                      linear_->module, first + i / cols_, i % cols_, out[i]));
    }
  }
}

void LinearSolver::ObserveRow(const float* row, float* ordered, Grid* grids) const {
  const bool permuted = packed_.g_idx.has_value();
  std::vector<float> ordered_importance;
  const float* values = row;
  const float* importance = importance_.data();
  if (permuted) {
    for (int64_t i = 0; i < cols_; ++i) ordered[i] = row[order_[i]];
    values = ordered;
    if (!importance_.empty()) {
      for (const int32_t column : order_) ordered_importance.push_back(importance_[column]);
      importance = ordered_importance.data();
    }
  }
  for (int64_t group = 0; group < num_groups_; ++group) {
    const size_t size = Size(group_size_);
    const int64_t first = group * group_size_;
    grids[group] = ObserveGroup(
        *recipe_, scale_dtype_, std::span(values + first, size),
        importance_.empty() ? std::span<const float>() : std::span(importance + first, size));
  }
}

int64_t LinearSolver::ChunkBytes(const Recipe& recipe, int64_t rows, int64_t cols) {
  return ChunkShape(recipe, std::min(rows, ChunkRows(rows)), cols).size_bytes();
}

int64_t LinearSolver::MeasureBytes(int64_t rows, int64_t cols) {
  // Errors and weights of the sampled rows, and their products with H.
  return 2 * 2 * std::min(rows, kMaxSampledRows) * cols * int64_t{sizeof(float)};
}

void LinearSolver::MeasureRounding(GptqAlgebra& algebra) {
  const int64_t count = std::min(rows_, kMaxSampledRows);
  // Columns [0, count): rounding errors; [count, 2 count): the weights themselves.
  std::vector<float> x(cols_ * 2 * count);
  algebra.threads().ParallelFor(count, [&](int64_t sample, int) {
    std::vector<float> row(cols_), ordered(Size(cols_));
    std::vector<Grid> grids(num_groups_);
    ReadRows(SampledRow(sample, count, rows_), 1, row.data());
    ObserveRow(row.data(), ordered.data(), grids.data());
    for (int64_t k = 0; k < cols_; ++k) {
      const Grid& grid = grids[group_of_[k]];
      const float weight = row[k];
      const float decoded = (QuantizeOne(*recipe_, grid, weight) - grid.zero_point) * grid.scale;
      x[k * 2 * count + sample] = weight - decoded;
      x[k * 2 * count + count + sample] = weight;
    }
  });
  const std::vector<double> energies = factor_->QuadraticForms(x.data(), 2 * count);
  const auto weights = energies.begin() + count;
  sampled_rounding_ = std::accumulate(energies.begin(), weights, 0.0);
  sampled_energy_ = std::accumulate(weights, energies.end(), 0.0);
}

void LinearSolver::SolveChunk(int64_t chunk, bool use_factor, GptqAlgebra& algebra) {
  const int64_t first_row = chunk * chunk_rows_;
  const int64_t count = std::min(chunk_rows_, rows_ - first_row);
  const ChunkShape shape(*recipe_, count, cols_);
  const int64_t padded = shape.padded;
  const int64_t block_size = shape.block_size;
  const int64_t far = shape.far;
  ChunkArrays arrays(Size(shape.size_bytes()));
  float* const weights = arrays.Take<float>(count * cols_).data();
  float* const current = arrays.Take<float>(cols_ * padded).data();
  float* const errors = arrays.Take<float>(far * padded).data();
  const std::span<float> scales = arrays.Take<float>(num_groups_ * padded);
  const std::span<float> zero_points = arrays.Take<float>(num_groups_ * padded);
  float* const block_losses = arrays.Take<float>(padded).data();
  float* const decoded = arrays.Take<float>(cols_).data();
  int8_t* const codes_at = arrays.Take<int8_t>(cols_ * padded).data();
  const std::span<int8_t> codes = arrays.Take<int8_t>(count * cols_);
  ReadRows(first_row, count, weights);

  std::vector<float> ordered(packed_.g_idx ? Size(cols_) : 0);
  std::vector<Grid> grids(num_groups_);
  std::ranges::fill(scales, 1.0f);  // rows of padding, too
  std::ranges::fill(zero_points, 0.0f);
  for (int64_t row = 0; row < count; ++row) {
    ObserveRow(weights + row * cols_, ordered.data(), grids.data());
    StoreGrids(first_row + row, grids);
    for (int64_t group = 0; group < num_groups_; ++group) {
      scales[group * padded + row] = grids[group].scale;
      zero_points[group * padded + row] = grids[group].zero_point;
    }
  }

  // The sweep, on the transposed chunk.
  TransposeInOrder(weights, count, cols_, order_, padded, current);
  if (use_factor && recipe_->dead_columns == DeadColumns::kZero) {
    for (int64_t i = 0; i < cols_; ++i) {
      if (!factor_->is_dead(order_[i])) continue;
      float* const column = current + i * padded;
      std::fill(column, column + padded, 0.0f);
    }
  }
  for (int64_t first = 0; first < cols_; first += block_size) {
    SweepBlock block;
    block.columns = std::min(block_size, cols_ - first);
    block.rows = padded;
    block.weights = current + first * padded;
    block.factor = use_factor ? factor_->factor() + first * cols_ + first : nullptr;
    block.factor_stride = cols_;
    block.groups = group_at_.data() + first;
    block.scales = scales.data();
    block.zero_points = zero_points.data();
    block.min_code = static_cast<float>(recipe_->min_code());
    block.max_code = static_cast<float>(recipe_->max_code());
    block.codes = codes_at + first * padded;
    block.errors = errors + first % far * padded;
    block.losses = block_losses;
    Sweep(block);
    const int64_t next = first + block.columns;
    if (!use_factor) continue;
    for (int64_t row = 0; row < count; ++row) {
      losses_[first_row + row] += static_cast<double>(block.losses[row]);
    }
    // Errors of columns [from, next) to columns [next, to).
    const auto spread = [&](int64_t from, int64_t to) {
      algebra.TransposedMultiplyAdd(-1.0f, factor_->factor() + from * cols_ + next, cols_,
                                    errors + from % far * padded, padded, current + next * padded,
                                    padded, to - next, padded, next - from);
    };
    if (next % far == 0) {
      spread(next - far, cols_);
    } else {
      spread(first, std::min(next / far * far + far, cols_));
    }
  }

  // Back to rows: codes, and their errors.
  TransposeBack(codes_at, count, cols_, order_, padded, codes.data());
  const double damping = use_factor ? static_cast<double>(factor_->damping_added()) : 0;
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t group = 0; group < num_groups_; ++group) {
      const size_t at = Size(group * padded + row);
      grids[group] = {scales[at], zero_points[at]};
    }
    const float* const row_weights = weights + row * cols_;
    DecodeRow(codes.data() + row * cols_, grids.data(), decoded);
    const Squares squares = SumSquares(row_weights, decoded, cols_);
    double dead_error = 0;
    if (use_factor) {
      for (const int32_t k : dead_columns_) {
        const double error = static_cast<double>(row_weights[k] - decoded[k]);
        dead_error += error * error;
      }
    }
    const size_t at = Size(first_row + row);
    weight_errors_[at] = squares.error;
    weight_norms_[at] = squares.norm;
    // The sweep's squared errors sum to D (H + damping) D^T, where the diagonal of a dead column is
    // 1.
    output_errors_[at] = std::max(0.0, losses_[at] - damping * squares.error - dead_error);
  }
  const Tensor words = PackCodes(codes, count, cols_, recipe_->bits);
  std::memcpy(packed_.packed.data() + first_row * packed_.packed.shape()[1] * 4,
              words.view().data(), Size(words.view().size_bytes()));
}

void LinearSolver::DecodeRow(const int8_t* codes, const Grid* grids, float* out) const {
  if (packed_.g_idx) {
    for (int64_t k = 0; k < cols_; ++k) {
      const Grid& grid = grids[group_of_[k]];
      out[k] = (static_cast<float>(codes[k]) - grid.zero_point) * grid.scale;
    }
    return;
  }
  for (int64_t first = 0; first < cols_; first += group_size_) {
    const Grid grid = grids[first / group_size_];
    for (int64_t k = first; k < first + group_size_; ++k) {
      out[k] = (static_cast<float>(codes[k]) - grid.zero_point) * grid.scale;
    }
  }
}

void LinearSolver::StoreGrids(int64_t row, std::span<const Grid> grids) {
  std::vector<float> scales;
  for (const Grid& grid : grids) scales.push_back(grid.scale);
  const Tensor stored = FromFloat(scales, scale_dtype_, Shape{num_groups_});
  std::memcpy(packed_.scales.data() + row * num_groups_ * DTypeSize(scale_dtype_),
              stored.view().data(), Size(stored.view().size_bytes()));
  if (recipe_->symmetric) return;
  for (int64_t group = 0; group < num_groups_; ++group) {
    zero_points_[row * num_groups_ + group] = static_cast<int8_t>(grids[group].zero_point);
  }
}

QuantizedLinear LinearSolver::Finish(bool used_factor, int64_t tokens, double seconds) {
  LinearReport report;
  report.module = linear_->module;
  report.rows = rows_;
  report.cols = cols_;
  report.tokens = tokens;
  // Without tokens the factor is diagonal, and the sweep rounds to nearest.
  report.method = Name(used_factor && tokens > 0 ? Method::kGptq : Method::kRoundToNearest);
  report.seconds = seconds;
  double error = 0, norm = 0, loss = 0;
  for (int64_t row = 0; row < rows_; ++row) {
    error += weight_errors_[row];
    norm += weight_norms_[row];
    loss += losses_[row];
  }
  report.weight_error = norm > 0 ? error / norm : 0;
  report.loss = loss / 2;
  if (factor_ != nullptr) {
    report.dead_columns = factor_->num_dead();
    report.retries = factor_->retries();
    if (used_factor) report.dampening = factor_->dampening();
  }
  if (sampled_energy_ > 0) {
    report.relative_error_rtn = sampled_rounding_ / sampled_energy_;
    report.relative_error = report.relative_error_rtn;
    if (used_factor) {
      const int64_t count = std::min(rows_, kMaxSampledRows);
      double sum = 0;
      for (int64_t sample = 0; sample < count; ++sample) {
        sum += output_errors_[SampledRow(sample, count, rows_)];
      }
      report.relative_error = sum / sampled_energy_;
    }
  }
  if (!recipe_->symmetric) {
    packed_.zero_point = PackZeroPoints(zero_points_, rows_, num_groups_, recipe_->bits);
  }
  return {std::move(packed_), std::move(report)};
}

}  // namespace nibble
