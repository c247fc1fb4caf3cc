#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "backend/buffer.h"
#include "backend/cpu/kernels/table.h"
#include "backend/weight.h"
#include "base/math.h"
#include "base/thread_pool.h"

namespace nibble::cpu {

// Name and version of the layout below and in PackedFormat, the same for all instruction sets.
// Files of prepared weights carry it: increase the number with every change of the bytes that
// PrepareMatrix makes.
inline constexpr std::string_view kWeightLayoutName = "cpu 1";

// Row-major values in the checkpoint's type: embeddings; and norms, widened to float.
struct RowTable {
  DType dtype = DType::kF32;
  Buffer values;
};

// Tiles of 64 rows, each [cols][64]: BF16 stays as it is, anything else becomes float.
struct DenseLayout {
  bool bf16 = false;
  Buffer tiles;

  const void* tile(int64_t index, int64_t cols) const {
    return static_cast<const char*>(tiles.data()) + index * cols * kTileRows * (bf16 ? 2 : 4);
  }
};

// Tiles of 64 rows, each format.num_blocks blocks (see PackedFormat): about 4.13 bits a weight with
// groups of 128 and BF16 scales.
struct PackedLayout {
  PackedFormat format;
  std::vector<int32_t> columns;  // source of each packed column, -1: padding; empty: in order
  Buffer tiles;

  const uint8_t* tile(int64_t index) const {
    return static_cast<const uint8_t*>(tiles.data()) +
           index * format.num_blocks * format.block_bytes;
  }
};

// One matrix (or vector) as the CPU kernels read it.
class CpuMatrix {
 public:
  using Layout = std::variant<RowTable, DenseLayout, PackedLayout>;

  CpuMatrix(int64_t rows, int64_t cols, Layout layout)
      : rows_(rows), cols_(cols), layout_(std::move(layout)) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t size_bytes() const;
  int64_t num_tiles() const { return CeilDiv(rows_, kTileRows); }
  const Layout& layout() const { return layout_; }

 private:
  int64_t rows_;
  int64_t cols_;
  Layout layout_;
};

// Copies a matrix of a checkpoint into the layout of its role, on the threads of `pool`. Throws
// kUnsupported or kInvalidData for a packed format the kernels cannot run.
CpuMatrix PrepareMatrix(const WeightView& view, Role role, ThreadPool& pool);

// The parts of a weight, each a matrix of its own: a kernel call may read two of them.
class CpuWeight final : public Weight {
 public:
  explicit CpuWeight(std::vector<CpuMatrix> parts);

  int64_t size_bytes() const override;
  const CpuMatrix& matrix(int64_t part) const { return matrices_[static_cast<size_t>(part)]; }

 private:
  std::vector<CpuMatrix> matrices_;
};

class CpuWeightLayout final : public WeightLayout {
 public:
  std::string_view name() const override { return kWeightLayoutName; }
  int64_t SizeBytes(const WeightView& part, Role role) const override;
  std::span<const std::byte> Bytes(const Weight& weight, int64_t part) const override;
  std::unique_ptr<Weight> Adopt(std::span<const WeightView> parts, Role role,
                                std::span<const std::span<const std::byte>> bytes) const override;
};

}  // namespace nibble::cpu
