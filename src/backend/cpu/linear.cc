#include "backend/cpu/linear.h"

#include <algorithm>

#include "backend/cpu/parallel.h"
#include "base/check.h"
#include "base/math.h"

namespace nibble::cpu {
namespace {

// A task is up to kMaxTiles tiles by up to kMaxRunRows rows: few enough that activations and sums
// of a block stay in the L2 cache, enough that reading them and unpacking weights is a small part
// of the work.
constexpr int64_t kMaxRunRows = 96;
constexpr int64_t kMinRunRows = 48;
constexpr int64_t kMinTiles = 2;
// At most so many rows: bound by reading weights, so cut into many small pieces.
constexpr int64_t kFewRows = 12;
constexpr int64_t kRunMultiple = 12;  // a multiple of the rows at once of every kernel
constexpr int64_t kPiecesPerThread = 4;

bool SameLayout(const CpuMatrix& a, const CpuMatrix& b) {
  if (a.layout().index() != b.layout().index()) return false;
  if (const auto* dense = std::get_if<DenseLayout>(&a.layout())) {
    return dense->bf16 == std::get<DenseLayout>(b.layout()).bf16;
  }
  return std::get<PackedLayout>(a.layout()).format == std::get<PackedLayout>(b.layout()).format;
}

}  // namespace

LinearRunner::LinearRunner(const Kernels& kernels, ThreadPool& pool, int activation_planes)
    : kernels_(kernels),
      pool_(pool),
      activation_planes_(activation_planes),
      scratch_(static_cast<size_t>(pool.num_threads())) {
  for (ThreadScratch& scratch : scratch_) {
    scratch.sums.Get<float>(kMaxTiles * kMaxRunRows * kTileRows);
    scratch.tile.Get<char>(kTileScratchBytes);
    scratch.rows.Get<const float*>(kMaxRunRows);
  }
}

const LinearRunner::FixedInput* LinearRunner::AddInput(const LinearTask& task,
                                                       const CpuMatrix& weight) {
  const auto* layout = std::get_if<PackedLayout>(&weight.layout());
  if (layout == nullptr) return nullptr;
  for (const FixedInput& input : inputs_) {
    if (input.x == task.x && input.rows == task.rows && input.num_rows == task.num_rows &&
        input.layout->format.block_cols == layout->format.block_cols &&
        input.layout->columns == layout->columns) {
      return &input;
    }
  }
  const int64_t first_row =
      inputs_.empty() ? 0 : inputs_.back().first_row + inputs_.back().num_rows;
  NIBBLE_CHECK(inputs_.size() < inputs_.capacity());  // plans point into it
  inputs_.push_back({task.x, task.rows, task.num_rows, weight.cols(), layout, {}, first_row});
  return &inputs_.back();
}

void LinearRunner::FixInputs() {
  if (inputs_.empty()) return;
  int64_t blocks = 0, bytes = 0;
  for (const FixedInput& input : inputs_) {
    const PackedFormat& format = input.layout->format;
    blocks += input.num_rows * format.num_blocks;
    bytes += input.num_rows * format.num_blocks * activation_planes_ * format.block_cols;
  }
  auto* planes = planes_.Get<int8_t>(bytes);
  auto* scales = scales_.Get<float>(blocks);
  auto* sums = sums_.Get<int32_t>(blocks);
  for (FixedInput& input : inputs_) {
    const PackedFormat& format = input.layout->format;
    input.fixed = {planes, scales, sums, input.num_rows, activation_planes_};
    planes += input.num_rows * format.num_blocks * activation_planes_ * format.block_cols;
    scales += input.num_rows * format.num_blocks;
    sums += input.num_rows * format.num_blocks;
  }
  const int64_t num_rows = inputs_.back().first_row + inputs_.back().num_rows;
  ForRows(pool_, num_rows, blocks / num_rows * kMaxPackedBlock, [&](int64_t index) {
    const auto after = std::upper_bound(
        inputs_.begin(), inputs_.end(), index,
        [](int64_t row, const FixedInput& input) { return row < input.first_row; });
    const FixedInput& input = *(after - 1);
    const int64_t i = index - input.first_row;
    const int64_t row = input.rows != nullptr ? input.rows[i] : i;
    const auto& columns = input.layout->columns;
    kernels_.fix_row(input.x + row * input.cols, columns.empty() ? nullptr : columns.data(),
                     input.cols, input.layout->format, i, input.fixed);
  });
}

int64_t LinearRunner::Cut(std::span<const LinearTask> tasks, int64_t max_tiles, int64_t max_rows) {
  int64_t pieces = 0;
  for (size_t t = 0; t < tasks.size(); ++t) {
    const LinearTask& task = tasks[t];
    Plan& plan = plans_[t];
    const int64_t tiles = task.weight->num_tiles();
    const int64_t at_once = task.num_rows <= kFewRows ? kMinTiles : max_tiles;
    const int64_t groups = CeilDiv(tiles, task.second != nullptr ? at_once / 2 : at_once);
    const int64_t runs = CeilDiv(task.num_rows, max_rows);
    plan.first_piece = pieces;
    plan.tiles_per_group = CeilDiv(tiles, groups);
    plan.num_groups = CeilDiv(tiles, plan.tiles_per_group);
    plan.rows_per_run = RoundUp(CeilDiv(task.num_rows, runs), kRunMultiple);
    pieces += plan.num_groups * CeilDiv(task.num_rows, plan.rows_per_run);
  }
  return pieces;
}

void LinearRunner::Run(std::span<const LinearTask> tasks) {
  inputs_.clear();
  inputs_.reserve(2 * tasks.size());
  plans_.resize(tasks.size());
  for (size_t t = 0; t < tasks.size(); ++t) {
    const LinearTask& task = tasks[t];
    NIBBLE_CHECK(task.num_rows > 0);
    plans_[t].input = AddInput(task, *task.weight);
    plans_[t].second_input = task.second != nullptr ? AddInput(task, *task.second) : nullptr;
  }
  FixInputs();

  // The largest pieces of which every thread still gets a few.
  const int64_t enough = pool_.num_threads() > 1 ? kPiecesPerThread * pool_.num_threads() : 1;
  int64_t max_tiles = kMaxTiles;
  int64_t max_rows = kMaxRunRows;
  int64_t pieces = Cut(tasks, max_tiles, max_rows);
  while (pieces < enough && (max_tiles > kMinTiles || max_rows > kMinRunRows)) {
    (max_tiles > kMinTiles ? max_tiles : max_rows) /= 2;
    pieces = Cut(tasks, max_tiles, max_rows);
  }
  Parallel(pool_, pieces, [&](int64_t piece, int thread) {
    const auto after =
        std::upper_bound(plans_.begin(), plans_.end(), piece,
                         [](int64_t p, const Plan& plan) { return p < plan.first_piece; });
    const Plan& plan = *(after - 1);
    RunPiece(tasks[&plan - plans_.data()], plan, piece - plan.first_piece, scratch_[thread]);
  });
}

void LinearRunner::RunPiece(const LinearTask& task, const Plan& plan, int64_t piece,
                            ThreadScratch& scratch) {
  const int64_t first_row = piece / plan.num_groups * plan.rows_per_run;
  const int64_t num_rows = std::min(plan.rows_per_run, task.num_rows - first_row);
  const int64_t first_tile = piece % plan.num_groups * plan.tiles_per_group;
  const int64_t num_tiles = std::min(plan.tiles_per_group, task.weight->num_tiles() - first_tile);
  const int64_t tile_floats = num_rows * kTileRows;
  float* const sums = scratch.sums.Get<float>(kMaxTiles * tile_floats);
  float* const other_sums = sums + num_tiles * tile_floats;

  // Gate and up are multiplied in one call if their layouts allow it.
  const bool together = task.second != nullptr && SameLayout(*task.weight, *task.second) &&
                        plan.input == plan.second_input;
  Multiply(task, *task.weight, together ? task.second : nullptr, first_tile, num_tiles, plan.input,
           first_row, num_rows, sums, scratch);
  if (task.second != nullptr && !together) {
    Multiply(task, *task.second, nullptr, first_tile, num_tiles, plan.second_input, first_row,
             num_rows, other_sums, scratch);
  }
  for (int64_t i = 0; i < num_tiles; ++i) {
    const int64_t column = (first_tile + i) * kTileRows;
    const int64_t width = std::min(kTileRows, task.weight->rows() - column);
    const float* const tile_sums = sums + i * tile_floats;
    float* const out = task.out + first_row * task.out_stride + column;
    switch (task.then) {
      case LinearTask::Then::kStore:
        kernels_.store_tile(tile_sums, num_rows, width, out, task.out_stride);
        break;
      case LinearTask::Then::kAdd:
        kernels_.add_tile(tile_sums, num_rows, width, out, task.out_stride);
        break;
      case LinearTask::Then::kSiluTimes:
        kernels_.silu_tile(tile_sums, other_sums + i * tile_floats, num_rows, width, out,
                           task.out_stride);
        break;
    }
  }
}

// Sums of tiles [first_tile, first_tile + num_tiles) of `weight`, and then of `second` if there is
// one.
void LinearRunner::Multiply(const LinearTask& task, const CpuMatrix& weight,
                            const CpuMatrix* second, int64_t first_tile, int64_t num_tiles,
                            const FixedInput* input, int64_t first_row, int64_t num_rows,
                            float* sums, ThreadScratch& scratch) {
  void* const tile_scratch = scratch.tile.Get<char>(kTileScratchBytes);
  const int count = static_cast<int>(second != nullptr ? 2 * num_tiles : num_tiles);
  NIBBLE_CHECK(count <= kMaxTiles);
  const auto weight_of = [&](int64_t i) -> const CpuMatrix& {
    return i < num_tiles ? weight : *second;
  };
  if (input != nullptr) {
    PackedTiles packed{};
    packed.count = count;
    for (int i = 0; i < count; ++i) {
      packed.tile[i] =
          std::get<PackedLayout>(weight_of(i).layout()).tile(first_tile + i % num_tiles);
    }
    kernels_.packed_tiles(std::get<PackedLayout>(weight.layout()).format, packed, input->fixed,
                          first_row, num_rows, sums, tile_scratch);
    return;
  }
  const int64_t cols = weight.cols();
  const auto** const x = scratch.rows.Get<const float*>(num_rows);
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t row = task.rows != nullptr ? task.rows[first_row + i] : first_row + i;
    x[i] = task.x + row * cols;
  }
  DenseTiles dense{};
  dense.count = count;
  dense.cols = cols;
  dense.bf16 = std::get<DenseLayout>(weight.layout()).bf16;
  for (int i = 0; i < count; ++i) {
    dense.tile[i] =
        std::get<DenseLayout>(weight_of(i).layout()).tile(first_tile + i % num_tiles, cols);
  }
  kernels_.dense_tiles(dense, x, num_rows, sums, tile_scratch);
}

}  // namespace nibble::cpu
