#include "backend/weight.h"

#include "base/check.h"
#include "base/math.h"

namespace nibble {

MatrixShape ShapeOf(const WeightView& weight) {
  if (const auto* packed = std::get_if<PackedView>(&weight)) return {packed->rows, packed->cols};
  const Shape& shape = std::get<TensorView>(weight).shape();
  NIBBLE_CHECK(shape.rank() == 1 || shape.rank() == 2);
  return {shape.rank() == 1 ? 1 : shape[0], shape[shape.rank() - 1]};
}

WeightView RowsOf(const WeightView& weight, int64_t first, int64_t count) {
  if (const auto* dense = std::get_if<TensorView>(&weight)) return dense->Rows(first, count);
  NIBBLE_CHECK(first >= 0 && count >= 0 && first + count <= ShapeOf(weight).rows);
  PackedView rows = std::get<PackedView>(weight);
  rows.rows = count;
  rows.packed = rows.packed.Rows(first, count);
  rows.scales = rows.scales.Rows(first, count);
  if (rows.zero_point) {
    const int64_t per_word = 32 / rows.bits;
    NIBBLE_CHECK(first % per_word == 0);
    rows.zero_point = rows.zero_point->Rows(first / per_word, CeilDiv(count, per_word));
  }
  return rows;
}

}  // namespace nibble
