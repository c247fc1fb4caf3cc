#include "backend/cuda/w4/w4_pack.h"

#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>

#include "base/check.h"
#include "nibble/error.h"

namespace nibble::cuda {
namespace {

// Which row of which part a merged row comes from.
using SourceOf = std::function<W4SourceRow(int64_t row)>;

[[noreturn]] void Refuse(const std::string& found, const std::string& expected) {
  throw Error(ErrorCode::kUnsupported, "packed weight " + found + ": the CUDA kernels read " +
                                           expected + "; run it on the cpu backend");
}

void CheckPart(const W4Part& part) {
  const PackedView& weight = part.weight;
  if (weight.bits != 4) Refuse("of " + std::to_string(weight.bits) + " bits", "4");
  if (weight.zero_point) Refuse("with zero points", "symmetric ones");
  if (weight.g_idx) Refuse("with a group index", "groups of neighbouring columns");
  if (weight.scales.dtype() != DType::kBF16) {
    Refuse("with scales of type " + std::string(DTypeName(weight.scales.dtype())), "BF16 scales");
  }
  if (weight.group_size % kW4GroupCols != 0) {
    Refuse("in groups of " + std::to_string(weight.group_size), "groups of a multiple of 128");
  }
  if (part.first_col % kW4GroupCols != 0 || part.num_cols % kW4GroupCols != 0) {
    Refuse("of columns " + std::to_string(part.first_col) + " to " +
               std::to_string(part.first_col + part.num_cols),
           "multiples of 128 columns");
  }
  NIBBLE_CHECK(part.num_rows > 0 && part.first_row >= 0 &&
               part.first_row + part.num_rows <= weight.rows);
  NIBBLE_CHECK(part.num_cols > 0 && part.first_col >= 0 &&
               part.first_col + part.num_cols <= weight.cols);
}

W4Layout LayoutOf(std::initializer_list<const W4Part*> parts) {
  int64_t rows = 0;
  const int64_t cols = (*parts.begin())->num_cols;
  for (const W4Part* part : parts) {
    CheckPart(*part);
    if (part->num_cols != cols) {
      Refuse(
          "of " + std::to_string(part->num_cols) + " columns beside one of " + std::to_string(cols),
          "merged weights of one width");
    }
    rows += part->num_rows;
  }
  return MakeW4Layout(rows, cols);
}

// One row of a part, from its first column on.
struct RowData {
  const std::byte* codes = nullptr;   // null: a padding row of zeros
  const std::byte* scales = nullptr;  // of the whole row
  int64_t first_col = 0;
  int64_t group_size = kW4GroupCols;
};

RowData FindRow(const W4Part& part, int64_t row) {
  const PackedView& weight = part.weight;
  const int64_t r = part.first_row + row;
  return {weight.packed.data() + (r * weight.cols + part.first_col) / 2,
          weight.scales.data() + r * weight.num_groups() * 2, part.first_col, weight.group_size};
}

void PackRecord(const RowData* rows, int64_t group, std::byte* record) {
  const auto codes = [&](int row, int64_t word) {  // bytes of a file: any alignment
    uint32_t result = 0x88888888u;
    if (rows[row].codes != nullptr) {
      std::memcpy(&result, rows[row].codes + (group * 16 + word) * 4, sizeof result);
    }
    return result;
  };
  for (int tile = 0; tile < 4; ++tile) {
    for (int g = 0; g < 8; ++g) {
      const int upper = tile * 16 + g;
      for (int64_t block = 0; block < 8; ++block) {  // 16 inputs each
        for (int t = 0; t < 4; ++t) {
          const uint32_t word =
              PackW4Word(codes(upper, 2 * block), codes(upper, 2 * block + 1),
                         codes(upper + 8, 2 * block), codes(upper + 8, 2 * block + 1), t);
          const int64_t vector = (tile * 2 + block / 4) * 32 + 4 * g + t;
          std::memcpy(record + vector * 16 + block % 4 * 4, &word, sizeof word);
        }
      }
    }
  }
  for (int r = 0; r < kW4RecordRows; ++r) {
    uint16_t scale = 0;
    if (rows[r].codes != nullptr) {
      const int64_t index = (rows[r].first_col + group * kW4GroupCols) / rows[r].group_size;
      std::memcpy(&scale, rows[r].scales + 2 * index, sizeof scale);
    }
    std::memcpy(record + kW4ScaleOffset + 2 * r, &scale, sizeof scale);
  }
}

void Pack(const W4Layout& layout, std::initializer_list<const W4Part*> parts,
          const SourceOf& source_of, std::span<std::byte> out, ThreadPool& pool) {
  NIBBLE_CHECK(static_cast<int64_t>(out.size()) == layout.size_bytes());
  const int64_t num_strips = layout.padded_rows() / kW4RecordRows;
  pool.ParallelFor(num_strips, [&](int64_t strip, int) {
    RowData rows[kW4RecordRows];
    for (int r = 0; r < kW4RecordRows; ++r) {
      const int64_t merged = strip * kW4RecordRows + r;
      if (merged >= layout.rows) continue;
      const W4SourceRow source = source_of(merged);
      rows[r] = FindRow(*parts.begin()[source.part], source.row);
    }
    for (int64_t group = 0; group < layout.num_groups(); ++group) {
      PackRecord(rows, group, out.data() + layout.RecordOffset(strip * kW4RecordRows, group));
    }
  });
}

}  // namespace

W4Layout LayoutOfW4(const W4Part& weight) { return LayoutOf({&weight}); }

W4Layout LayoutOfW4GateUp(const W4Part& gate, const W4Part& up) {
  const W4Layout layout = LayoutOf({&gate, &up});
  if (gate.num_rows != up.num_rows || gate.num_rows % 8 != 0) {
    Refuse("pair of " + std::to_string(gate.num_rows) + " gate and " + std::to_string(up.num_rows) +
               " up rows",
           "equally many of both, a multiple of 8");
  }
  return layout;
}

W4Layout LayoutOfW4Qkv(const W4Part& q, const W4Part& k, const W4Part& v, int64_t head_dim) {
  const W4Layout layout = LayoutOf({&q, &k, &v});
  if (head_dim % 16 != 0 || q.num_rows % head_dim != 0 || k.num_rows % head_dim != 0 ||
      v.num_rows != k.num_rows) {
    Refuse("triple of " + std::to_string(q.num_rows) + ", " + std::to_string(k.num_rows) + " and " +
               std::to_string(v.num_rows) + " rows in heads of " + std::to_string(head_dim),
           "whole heads of a multiple of 16 rows, equally many of keys and values");
  }
  return layout;
}

void PackW4(const W4Part& weight, std::span<std::byte> out, ThreadPool& pool) {
  Pack(LayoutOfW4(weight), {&weight}, [](int64_t row) { return W4SourceRow{0, row}; }, out, pool);
}

void PackW4GateUp(const W4Part& gate, const W4Part& up, std::span<std::byte> out,
                  ThreadPool& pool) {
  Pack(LayoutOfW4GateUp(gate, up), {&gate, &up}, GateUpSource, out, pool);
}

void PackW4Qkv(const W4Part& q, const W4Part& k, const W4Part& v, int64_t head_dim,
               std::span<std::byte> out, ThreadPool& pool) {
  const W4Layout layout = LayoutOfW4Qkv(q, k, v, head_dim);
  const auto source = [&](int64_t row) {
    return QkvSource(row, q.num_rows / head_dim, k.num_rows / head_dim, head_dim);
  };
  Pack(layout, {&q, &k, &v}, source, out, pool);
}

W4Codes UnpackW4(const W4Layout& layout, std::span<const std::byte> bytes) {
  NIBBLE_CHECK(static_cast<int64_t>(bytes.size()) == layout.size_bytes());
  W4Codes result;
  result.codes.resize(static_cast<size_t>(layout.rows * layout.cols));
  result.scales.resize(static_cast<size_t>(layout.rows * layout.num_groups()));
  for (int64_t row = 0; row < layout.rows; ++row) {
    for (int64_t col = 0; col < layout.cols; ++col) {
      const W4CodePosition at = CodePosition(layout, row, col);
      uint32_t word;
      std::memcpy(&word, bytes.data() + at.byte, sizeof word);
      result.codes[static_cast<size_t>(row * layout.cols + col)] =
          static_cast<int8_t>(static_cast<int>(word >> at.shift & 0xf) - 8);
    }
    for (int64_t group = 0; group < layout.num_groups(); ++group) {
      std::memcpy(&result.scales[static_cast<size_t>(row * layout.num_groups() + group)],
                  bytes.data() + ScalePosition(layout, row, group), sizeof(uint16_t));
    }
  }
  return result;
}

}  // namespace nibble::cuda
