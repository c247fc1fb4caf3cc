#include "backend/cpu/algebra/split_product.h"
#include "base/check.h"

namespace nibble::cpu {

bool HasTileProducts() { return false; }

void TileProduct(const TileOperand&, const TileOperand&, int64_t, int64_t, int64_t, float,
                 const TileTarget&) {
  NIBBLE_CHECK(HasTileProducts());
}

}  // namespace nibble::cpu
