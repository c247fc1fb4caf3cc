#include "backend/cpu/cpu_weight.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "backend/host/host_memory.h"
#include "base/check.h"
#include "base/math.h"
#include "nibble/error.h"

namespace nibble::cpu {
namespace {

void ForTiles(ThreadPool& pool, int64_t rows, const std::function<void(int64_t tile)>& body) {
  pool.ParallelFor(CeilDiv(rows, kTileRows), [&](int64_t tile, int) { body(tile); });
}

// Values of a row-major matrix as tiles [cols][64]. Transposes in square tiles that fit the L1
// cache, since either the reads or the writes are strided.
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

bool IsVector(Role role) {
  return role == Role::kVector || role == Role::kQkvBias || role == Role::kOutBias ||
         role == Role::kSinks;
}

bool IsTable(Role role) { return IsVector(role) || role == Role::kEmbedding; }

// The prepared form of a weight, derived from the shapes and types of its view (and its group
// index), not from its values.
struct WeightPlan {
  int64_t rows = 0;
  int64_t cols = 0;
  CpuMatrix::Layout layout;     // its buffer is still empty
  int64_t bytes = 0;            // of that buffer
  std::vector<int32_t> groups;  // of each block, if packed
};

const Buffer& BufferOf(const CpuMatrix::Layout& layout) {
  if (const auto* table = std::get_if<RowTable>(&layout)) return table->values;
  if (const auto* dense = std::get_if<DenseLayout>(&layout)) return dense->tiles;
  return std::get<PackedLayout>(layout).tiles;
}

Buffer& BufferOf(CpuMatrix::Layout& layout) {
  return const_cast<Buffer&>(BufferOf(std::as_const(layout)));
}

std::vector<MatrixShape> ShapesOf(const std::vector<CpuMatrix>& matrices) {
  std::vector<MatrixShape> shapes;
  for (const CpuMatrix& matrix : matrices) shapes.push_back({matrix.rows(), matrix.cols()});
  return shapes;
}

WeightPlan PlanDense(const TensorView& view, Role role) {
  if (view.dtype() != DType::kBF16 && view.dtype() != DType::kF16 && view.dtype() != DType::kF32) {
    throw Error(ErrorCode::kUnsupported, "weight of type " + std::string(DTypeName(view.dtype())) +
                                             ": the cpu backend runs BF16, F16 and F32");
  }
  const int rank = view.shape().rank();
  NIBBLE_CHECK(rank == 1 || rank == 2);
  WeightPlan plan;
  plan.cols = view.shape()[rank - 1];
  plan.rows = rank == 1 ? 1 : view.shape()[0];
  if (IsTable(role)) {
    RowTable table;
    table.dtype = IsVector(role) ? DType::kF32 : view.dtype();
    plan.bytes = plan.rows * plan.cols * DTypeSize(table.dtype);
    plan.layout = std::move(table);
  } else {
    DenseLayout dense;
    dense.bf16 = view.dtype() == DType::kBF16;
    plan.bytes = RoundUp(plan.rows, kTileRows) * plan.cols * (dense.bf16 ? 2 : 4);
    plan.layout = std::move(dense);
  }
  return plan;
}

void FillDense(const TensorView& view, const WeightPlan& plan, const DenseLayout& layout,
               ThreadPool& pool) {
  void* const tiles = layout.tiles.data();
  if (layout.bf16) {
    TileMatrix(view.As<BFloat16>().data(), plan.rows, plan.cols, static_cast<uint16_t*>(tiles),
               pool, [](BFloat16 value) { return value.bits(); });
  } else if (view.dtype() == DType::kF16) {
    TileMatrix(view.As<Float16>().data(), plan.rows, plan.cols, static_cast<float*>(tiles), pool,
               [](Float16 value) { return static_cast<float>(value); });
  } else {
    TileMatrix(view.As<float>().data(), plan.rows, plan.cols, static_cast<float*>(tiles), pool,
               [](float value) { return value; });
  }
}

void FillTable(const TensorView& view, const RowTable& table, ThreadPool& pool) {
  if (table.dtype != view.dtype()) {  // a vector
    ToFloat(view, std::span(static_cast<float*>(table.values.data()),
                            static_cast<size_t>(view.num_elements())));
    return;
  }
  constexpr int64_t kPiece = int64_t{1} << 20;
  const int64_t bytes = view.size_bytes();
  pool.ParallelFor(CeilDiv(bytes, kPiece), [&](int64_t piece, int) {
    const int64_t first = piece * kPiece;
    std::memcpy(static_cast<std::byte*>(table.values.data()) + first, view.data() + first,
                static_cast<size_t>(std::min(kPiece, bytes - first)));
  });
}

// The group of each block and the source column of each packed column: every group takes a whole
// number of blocks, so that a block has one scale a row. With a group index the columns of a group
// are gathered; the last block of a group may have padding columns (-1).
struct BlockPlan {
  PackedFormat format{};
  std::vector<int32_t> columns;
  std::vector<int32_t> groups;  // of each block
};

BlockPlan PlanBlocks(const PackedView& view) {
  const int64_t num_groups = view.scales.shape()[1];
  std::vector<std::vector<int32_t>> members(num_groups);
  const int32_t* const g_idx = view.g_idx ? view.g_idx->As<int32_t>().data() : nullptr;
  for (int64_t k = 0; k < view.cols; ++k) {
    const int64_t group = g_idx != nullptr ? g_idx[k] : k / view.group_size;
    if (group < 0 || group >= num_groups) {
      throw Error(ErrorCode::kInvalidData,
                  "packed weight: column " + std::to_string(k) + " belongs to group " +
                      std::to_string(group) + ", but there are scales for " +
                      std::to_string(num_groups) + " groups; the checkpoint contradicts itself");
    }
    members[group].push_back(static_cast<int32_t>(k));
  }

  size_t largest = 1;
  for (const auto& group : members) largest = std::max(largest, group.size());
  const auto group_columns = static_cast<int64_t>(largest);
  const int64_t per_group = CeilDiv(group_columns, kMaxPackedBlock);
  BlockPlan plan;
  plan.format.block_cols = RoundUp(CeilDiv(group_columns, per_group), 8);
  for (int64_t group = 0; group < num_groups; ++group) {
    const auto& columns = members[group];
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
    const int64_t column = columns_ != nullptr ? (*columns_)[packed_column] : packed_column;
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

// Four-bit codes in column order: a word of the checkpoint holds columns 8w..8w+7 of a row, and the
// layout wants the same word with its nibbles in another order. `words` are those of a block, for
// `rows` rows `stride` words apart. They are gathered first, a cache line a row, so that the
// nibbles of all rows are then permuted in one contiguous loop.
void PackWords(const int32_t* words, int64_t stride, int64_t rows, int64_t words_per_block,
               uint8_t* out) {
  alignas(64) uint32_t block[kMaxPackedBlock / 8 * kTileRows];
  const int64_t count = words_per_block * kTileRows;
  if (rows < kTileRows) std::fill_n(block, count, 0u);
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t* const row = words + r * stride;
    for (int64_t w = 0; w < words_per_block; ++w) {
      block[w * kTileRows + r] = static_cast<uint32_t>(row[w]);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    block[i] = SpreadNibbles(block[i] & 0xffffu) | SpreadNibbles(block[i] >> 16) << 4;
  }
  std::memcpy(out, block, static_cast<size_t>(count * 4));
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
  NIBBLE_CHECK(view.packed.num_elements() == view.rows * (CeilDiv(view.cols * view.bits, 32)));
}

WeightPlan PlanPacked(const PackedView& view) {
  CheckFormat(view);
  BlockPlan blocks = PlanBlocks(view);
  PackedLayout layout;
  layout.format = blocks.format;
  PackedFormat& format = layout.format;
  format.nibble_planes = view.bits / 4;
  format.float_scales = view.scales.dtype() != DType::kBF16;
  format.zero_points = view.zero_point.has_value();
  format.block_bytes = format.nibble_planes * format.block_cols * 32 +
                       kTileRows * ((format.float_scales ? 4 : 2) + (format.zero_points ? 1 : 0));
  if (!InOrder(blocks.columns, view.cols)) layout.columns = std::move(blocks.columns);

  WeightPlan plan;
  plan.rows = view.rows;
  plan.cols = view.cols;
  plan.bytes = CeilDiv(view.rows, kTileRows) * layout.format.num_blocks * layout.format.block_bytes;
  plan.layout = std::move(layout);
  plan.groups = std::move(blocks.groups);
  return plan;
}

void FillPacked(const PackedView& view, const WeightPlan& plan, const PackedLayout& layout,
                ThreadPool& pool) {
  const PackedFormat& format = layout.format;
  const int64_t nibble_bytes = format.nibble_planes * format.block_cols * 32;
  const int64_t scale_bytes = kTileRows * (format.float_scales ? 4 : 2);
  const int64_t tile_bytes = format.num_blocks * format.block_bytes;
  const int64_t num_groups = view.scales.shape()[1];
  std::vector<float> scales;
  if (format.float_scales) scales = ToFloat(view.scales);
  const BFloat16* const short_scales =
      format.float_scales ? nullptr : view.scales.As<BFloat16>().data();
  std::vector<int8_t> zeros;
  if (format.zero_points) {
    zeros = UnpackZeroPoints(*view.zero_point, view.rows, num_groups, view.bits);
  }
  const int32_t* const words = view.packed.As<int32_t>().data();
  const int64_t words_per_row = CeilDiv(view.cols * view.bits, 32);
  const bool whole_words = view.bits == 4 && layout.columns.empty() &&
                           format.num_blocks * format.block_cols == view.cols;

  ForTiles(pool, view.rows, [&](int64_t index) {
    uint8_t* const tile = static_cast<uint8_t*>(layout.tiles.data()) + index * tile_bytes;
    const int64_t first = index * kTileRows;
    const int64_t count = std::min(kTileRows, view.rows - first);
    for (int64_t r = 0; r < count && !whole_words; ++r) {
      PackRow(CodeReader(view, words + (first + r) * words_per_row,
                         layout.columns.empty() ? nullptr : &layout.columns),
              format, r, tile);
    }
    for (int64_t block = 0; block < format.num_blocks; ++block) {
      uint8_t* const out = tile + block * format.block_bytes;
      if (whole_words) {
        PackWords(words + first * words_per_row + block * format.block_cols / 8, words_per_row,
                  count, format.block_cols / 8, out);
      }
      uint8_t* const tail = out + nibble_bytes;
      for (int64_t r = 0; r < count; ++r) {
        const auto at = static_cast<size_t>((first + r) * num_groups + plan.groups[block]);
        if (format.float_scales) {
          std::memcpy(tail + r * 4, &scales[at], 4);
        } else {
          const uint16_t bits = short_scales[at].bits();
          std::memcpy(tail + r * 2, &bits, 2);
        }
        if (format.zero_points) {
          tail[scale_bytes + r] = static_cast<uint8_t>(zeros[at] + (1 << (view.bits - 1)));
        }
      }
    }
  });
}

WeightPlan PlanWeight(const WeightView& view, Role role) {
  const auto* const packed = std::get_if<PackedView>(&view);
  if (packed == nullptr) return PlanDense(std::get<TensorView>(view), role);
  if (!IsTable(role)) return PlanPacked(*packed);
  // Rows are looked up, not multiplied: they are kept dense.
  WeightPlan plan;
  plan.rows = packed->rows;
  plan.cols = packed->cols;
  plan.bytes = plan.rows * plan.cols * 4;
  plan.layout = RowTable();
  return plan;
}

}  // namespace

int64_t CpuMatrix::size_bytes() const {
  const auto* const packed = std::get_if<PackedLayout>(&layout_);
  return BufferOf(layout_).size_bytes() +
         (packed == nullptr ? 0 : static_cast<int64_t>(packed->columns.size() * sizeof(int32_t)));
}

CpuMatrix PrepareMatrix(const WeightView& view, Role role, ThreadPool& pool) {
  WeightPlan plan = PlanWeight(view, role);
  BufferOf(plan.layout) = HostBuffer(plan.bytes);
  const auto* const packed = std::get_if<PackedView>(&view);
  if (const auto* table = std::get_if<RowTable>(&plan.layout)) {
    if (packed != nullptr) {
      const Tensor dense = FromFloat(Dequantize(*packed), DType::kF32, Shape{plan.rows, plan.cols});
      FillTable(dense.view(), *table, pool);
    } else {
      FillTable(std::get<TensorView>(view), *table, pool);
    }
  } else if (packed != nullptr) {
    FillPacked(*packed, plan, std::get<PackedLayout>(plan.layout), pool);
  } else {
    FillDense(std::get<TensorView>(view), plan, std::get<DenseLayout>(plan.layout), pool);
  }
  return CpuMatrix(plan.rows, plan.cols, std::move(plan.layout));
}

CpuWeight::CpuWeight(std::vector<CpuMatrix> parts)
    : Weight(ShapesOf(parts)), matrices_(std::move(parts)) {}

int64_t CpuWeight::size_bytes() const {
  int64_t bytes = 0;
  for (const CpuMatrix& matrix : matrices_) bytes += matrix.size_bytes();
  return bytes;
}

int64_t CpuWeightLayout::SizeBytes(const WeightView& part, Role role) const {
  return PlanWeight(part, role).bytes;
}

std::span<const std::byte> CpuWeightLayout::Bytes(const Weight& weight, int64_t part) const {
  const auto* const cpu_weight = dynamic_cast<const CpuWeight*>(&weight);
  NIBBLE_CHECK(cpu_weight != nullptr && part >= 0 && part < weight.num_parts());
  const Buffer& buffer = BufferOf(cpu_weight->matrix(part).layout());
  return {static_cast<const std::byte*>(buffer.data()), static_cast<size_t>(buffer.size_bytes())};
}

std::unique_ptr<Weight> CpuWeightLayout::Adopt(
    std::span<const WeightView> parts, Role role,
    std::span<const std::span<const std::byte>> bytes) const {
  NIBBLE_CHECK(parts.size() == bytes.size());
  std::vector<CpuMatrix> matrices;
  for (size_t i = 0; i < parts.size(); ++i) {
    WeightPlan plan = PlanWeight(parts[i], role);
    NIBBLE_CHECK(static_cast<int64_t>(bytes[i].size()) == plan.bytes);
    NIBBLE_CHECK(reinterpret_cast<uintptr_t>(bytes[i].data()) % kAlignment == 0);
    // Kernels only read weights, so the bytes may lie in a read-only mapping.
    BufferOf(plan.layout) =
        Buffer(const_cast<std::byte*>(bytes[i].data()), plan.bytes, [](void*) { /* borrowed */ });
    matrices.emplace_back(plan.rows, plan.cols, std::move(plan.layout));
  }
  return std::make_unique<CpuWeight>(std::move(matrices));
}

}  // namespace nibble::cpu
