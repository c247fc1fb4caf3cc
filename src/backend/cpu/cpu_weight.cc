#include "backend/cpu/cpu_weight.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "backend/cpu/memory.h"
#include "base/check.h"
#include "nibble/error.h"

namespace nibble::cpu {
namespace {

void ForTiles(ThreadPool& pool, int64_t rows, const std::function<void(int64_t tile)>& body) {
  pool.ParallelFor((rows + kTileRows - 1) / kTileRows, [&](int64_t tile, int) { body(tile); });
}

// Values of a row-major matrix as tiles [cols][64]. Taken in squares that fit the first-level
// cache, since either the reads or the writes must jump.
template <typename From, typename To, typename Convert>
void TileMatrix(const From* values, int64_t rows, int64_t cols, To* tiles, ThreadPool& pool,
                Convert convert) {
  constexpr int64_t kRun = 32;
  ForTiles(pool, rows, [&](int64_t tile) {
    const int64_t first = tile * kTileRows;
    const int64_t count = std::min(kTileRows, rows - first);
    To* const out = tiles + tile * cols * kTileRows;
    for (int64_t start = 0; start < cols; start += kRun) {
      const int64_t end = std::min(cols, start + kRun);
      for (int64_t r = 0; r < count; ++r) {
        const From* const row = values + (first + r) * cols;
        for (int64_t k = start; k < end; ++k) out[k * kTileRows + r] = convert(row[k]);
      }
    }
  });
}

CpuWeight::Layout MakeDense(const TensorView& view, int64_t rows, int64_t cols, ThreadPool& pool) {
  DenseLayout layout;
  layout.bf16 = view.dtype() == DType::kBF16;
  const int64_t elements = (rows + kTileRows - 1) / kTileRows * kTileRows * cols;
  layout.tiles = AllocateHostMemory(elements * (layout.bf16 ? 2 : 4));
  if (layout.bf16) {
    TileMatrix(view.As<BFloat16>().data(), rows, cols, static_cast<uint16_t*>(layout.tiles.data()),
               pool, [](BFloat16 value) { return value.bits(); });
  } else if (view.dtype() == DType::kF16) {
    TileMatrix(view.As<Float16>().data(), rows, cols, static_cast<float*>(layout.tiles.data()),
               pool, [](Float16 value) { return static_cast<float>(value); });
  } else {
    TileMatrix(view.As<float>().data(), rows, cols, static_cast<float*>(layout.tiles.data()), pool,
               [](float value) { return value; });
  }
  return layout;
}

CpuWeight::Layout MakeTable(const TensorView& view, Role role) {
  RowTable table;
  if (role == Role::kNorm) {
    table.values = AllocateHostMemory(view.num_elements() * 4);
    ToFloat(view, std::span(static_cast<float*>(table.values.data()),
                            static_cast<size_t>(view.num_elements())));
  } else {
    table.dtype = view.dtype();
    table.values = AllocateHostMemory(view.size_bytes());
    std::memcpy(table.values.data(), view.data(), static_cast<size_t>(view.size_bytes()));
  }
  return table;
}

// Which group each packed column belongs to, and where the packed columns come from: every group
// takes a whole number of blocks, so that a block has one scale a row. With a group index the
// columns of a group are gathered; the last block of a group may have columns that do not exist
// (-1).
struct BlockPlan {
  PackedFormat format{};
  std::vector<int32_t> columns;
  std::vector<int32_t> groups;  // of each block
};

BlockPlan PlanBlocks(const PackedView& view) {
  const int64_t num_groups = view.scales.shape()[1];
  std::vector<std::vector<int32_t>> members(static_cast<size_t>(num_groups));
  const int32_t* const g_idx = view.g_idx ? view.g_idx->As<int32_t>().data() : nullptr;
  for (int64_t k = 0; k < view.cols; ++k) {
    const int64_t group = g_idx != nullptr ? g_idx[k] : k / view.group_size;
    if (group < 0 || group >= num_groups) {
      throw Error(ErrorCode::kInvalidData,
                  "packed weight: column " + std::to_string(k) + " belongs to group " +
                      std::to_string(group) + ", but there are scales for " +
                      std::to_string(num_groups) + " groups; the checkpoint contradicts itself");
    }
    members[static_cast<size_t>(group)].push_back(static_cast<int32_t>(k));
  }

  size_t largest = 1;
  for (const auto& group : members) largest = std::max(largest, group.size());
  const auto group_columns = static_cast<int64_t>(largest);
  const int64_t per_group = (group_columns + kMaxPackedBlock - 1) / kMaxPackedBlock;
  BlockPlan plan;
  plan.format.block_cols = ((group_columns + per_group - 1) / per_group + 7) / 8 * 8;
  for (int64_t group = 0; group < num_groups; ++group) {
    const auto& columns = members[static_cast<size_t>(group)];
    plan.columns.insert(plan.columns.end(), columns.begin(), columns.end());
    plan.groups.insert(plan.groups.end(), static_cast<size_t>(per_group),
                       static_cast<int32_t>(group));
    plan.columns.resize(plan.groups.size() * static_cast<size_t>(plan.format.block_cols), -1);
  }
  plan.format.num_blocks = static_cast<int64_t>(plan.groups.size());
  return plan;
}

bool InOrder(const std::vector<int32_t>& columns, int64_t cols) {
  for (size_t k = 0; k < columns.size(); ++k) {
    if (columns[k] != (static_cast<int64_t>(k) < cols ? static_cast<int32_t>(k) : -1)) return false;
  }
  return true;
}

// Codes of eight columns as two words of four bytes.
struct EightCodes {
  uint32_t first, second;
};

// Four nibbles to four bytes.
uint32_t SpreadNibbles(uint32_t nibbles) {
  const uint32_t pairs = (nibbles | nibbles << 8) & 0x00ff00ffu;
  return (pairs | pairs << 4) & 0x0f0f0f0fu;
}

// Reads the unsigned codes of one row.
class CodeReader {
 public:
  CodeReader(const PackedView& view, const int32_t* words, const std::vector<int32_t>* columns)
      : view_(view), words_(words), columns_(columns) {}

  EightCodes Read(int64_t packed_column) const {
    if (columns_ == nullptr && packed_column + 8 <= view_.cols) {
      if (view_.bits == 4) {
        const auto word = static_cast<uint32_t>(words_[packed_column / 8]);
        return {SpreadNibbles(word & 0xffffu), SpreadNibbles(word >> 16)};
      }
      return {static_cast<uint32_t>(words_[packed_column / 4]),
              static_cast<uint32_t>(words_[packed_column / 4 + 1])};
    }
    EightCodes codes{0, 0};
    for (int i = 0; i < 4; ++i) {
      codes.first |= One(packed_column + i) << (8 * i);
      codes.second |= One(packed_column + 4 + i) << (8 * i);
    }
    return codes;
  }

 private:
  uint32_t One(int64_t packed_column) const {
    const int64_t column =
        columns_ != nullptr ? (*columns_)[static_cast<size_t>(packed_column)] : packed_column;
    if (column < 0 || column >= view_.cols) return 0;
    const int64_t per_word = 32 / view_.bits;
    const auto word = static_cast<uint32_t>(words_[column / per_word]);
    return word >> (column % per_word * view_.bits) & ((1u << view_.bits) - 1u);
  }

  const PackedView& view_;
  const int32_t* words_;
  const std::vector<int32_t>* columns_;  // null: in order
};

void PackRow(const CodeReader& codes, const PackedFormat& format, int64_t row_in_tile,
             uint8_t* tile) {
  const int64_t plane_bytes = format.block_cols * 32;
  for (int64_t block = 0; block < format.num_blocks; ++block) {
    uint8_t* out = tile + block * format.block_bytes + row_in_tile * 4;
    for (int64_t step = 0; step < format.block_cols; step += 8, out += kTileRows * 4) {
      const auto [first, second] = codes.Read(block * format.block_cols + step);
      const uint32_t low = (first & 0x0f0f0f0fu) | (second & 0x0f0f0f0fu) << 4;
      if (format.nibble_planes == 1) {
        std::memcpy(out, &low, 4);
      } else {
        const uint32_t high = (first >> 4 & 0x0f0f0f0fu) | (second & 0xf0f0f0f0u);
        std::memcpy(out, &high, 4);
        std::memcpy(out + plane_bytes, &low, 4);
      }
    }
  }
}

void CheckFormat(const PackedView& view) {
  if (view.bits != 4 && view.bits != 8) {
    throw Error(ErrorCode::kUnsupported, "packed weight of " + std::to_string(view.bits) +
                                             " bits: the cpu backend runs 4 and 8");
  }
  const DType scales = view.scales.dtype();
  if (scales != DType::kBF16 && scales != DType::kF16 && scales != DType::kF32) {
    throw Error(ErrorCode::kUnsupported, "packed weight with scales of type " +
                                             std::string(DTypeName(scales)) +
                                             ": the cpu backend runs BF16, F16 and F32");
  }
  NIBBLE_CHECK(view.rows > 0 && view.cols > 0 && view.group_size > 0);
  NIBBLE_CHECK(view.scales.shape().rank() == 2 && view.scales.shape()[0] == view.rows);
  NIBBLE_CHECK(view.packed.num_elements() == view.rows * ((view.cols * view.bits + 31) / 32));
}

CpuWeight::Layout MakePacked(const PackedView& view, ThreadPool& pool) {
  CheckFormat(view);
  BlockPlan plan = PlanBlocks(view);
  PackedLayout layout;
  layout.format = plan.format;
  PackedFormat& format = layout.format;
  format.nibble_planes = view.bits / 4;
  format.float_scales = view.scales.dtype() != DType::kBF16;
  format.zero_points = view.zero_point.has_value();
  const int64_t nibble_bytes = format.nibble_planes * format.block_cols * 32;
  const int64_t scale_bytes = kTileRows * (format.float_scales ? 4 : 2);
  format.block_bytes = nibble_bytes + scale_bytes + (format.zero_points ? kTileRows : 0);
  if (!InOrder(plan.columns, view.cols)) layout.columns = std::move(plan.columns);

  const int64_t num_groups = view.scales.shape()[1];
  const std::vector<float> scales = ToFloat(view.scales);
  std::vector<int8_t> zeros;
  if (format.zero_points) {
    zeros = UnpackZeroPoints(*view.zero_point, view.rows, num_groups, view.bits);
  }
  const int64_t tile_bytes = format.num_blocks * format.block_bytes;
  layout.tiles = AllocateHostMemory((view.rows + kTileRows - 1) / kTileRows * tile_bytes);
  const int32_t* const words = view.packed.As<int32_t>().data();
  const int64_t words_per_row = (view.cols * view.bits + 31) / 32;

  ForTiles(pool, view.rows, [&](int64_t index) {
    uint8_t* const tile = static_cast<uint8_t*>(layout.tiles.data()) + index * tile_bytes;
    const int64_t count = std::min(kTileRows, view.rows - index * kTileRows);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = index * kTileRows + r;
      PackRow(CodeReader(view, words + row * words_per_row,
                         layout.columns.empty() ? nullptr : &layout.columns),
              format, r, tile);
      for (int64_t block = 0; block < format.num_blocks; ++block) {
        const auto at =
            static_cast<size_t>(row * num_groups + plan.groups[static_cast<size_t>(block)]);
        uint8_t* const tail = tile + block * format.block_bytes + nibble_bytes;
        if (format.float_scales) {
          std::memcpy(tail + r * 4, &scales[at], 4);
        } else {
          const uint16_t bits = BFloat16(scales[at]).bits();
          std::memcpy(tail + r * 2, &bits, 2);
        }
        if (format.zero_points) {
          tail[scale_bytes + r] = static_cast<uint8_t>(zeros[at] + (1 << (view.bits - 1)));
        }
      }
    }
  });
  return layout;
}

}  // namespace

int64_t CpuWeight::size_bytes() const {
  if (const auto* table = std::get_if<RowTable>(&layout_)) return table->values.size_bytes();
  if (const auto* dense = std::get_if<DenseLayout>(&layout_)) return dense->tiles.size_bytes();
  const auto& packed = std::get<PackedLayout>(layout_);
  return packed.tiles.size_bytes() + static_cast<int64_t>(packed.columns.size() * sizeof(int32_t));
}

std::unique_ptr<CpuWeight> PrepareWeight(const WeightView& view, Role role, ThreadPool& pool) {
  const bool is_table = role == Role::kNorm || role == Role::kEmbedding;
  if (const auto* packed = std::get_if<PackedView>(&view)) {
    if (is_table) {  // rows are looked up, not multiplied: keep them dense
      const Tensor dense =
          FromFloat(Dequantize(*packed), DType::kF32, Shape{packed->rows, packed->cols});
      return PrepareWeight(dense.view(), role, pool);
    }
    return std::make_unique<CpuWeight>(packed->rows, packed->cols, MakePacked(*packed, pool));
  }
  const TensorView& dense = std::get<TensorView>(view);
  if (dense.dtype() != DType::kBF16 && dense.dtype() != DType::kF16 &&
      dense.dtype() != DType::kF32) {
    throw Error(ErrorCode::kUnsupported, "weight of type " + std::string(DTypeName(dense.dtype())) +
                                             ": the cpu backend runs BF16, F16 and F32");
  }
  const int rank = dense.shape().rank();
  NIBBLE_CHECK(rank == 1 || rank == 2);
  const int64_t cols = dense.shape()[rank - 1];
  const int64_t rows = rank == 1 ? 1 : dense.shape()[0];
  return std::make_unique<CpuWeight>(
      rows, cols, is_table ? MakeTable(dense, role) : MakeDense(dense, rows, cols, pool));
}

}  // namespace nibble::cpu
