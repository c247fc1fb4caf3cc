#pragma once

#include <cstdint>

#include "backend/activation.h"
#include "backend/routing.h"

// What only backends of the host and the algebra of GPTQ may look into: activations are floats,
// row-major without gaps, and a routing is its table.
namespace nibble {

inline float* HostData(const Activation& x) { return static_cast<float*>(x.buffer.data()); }
inline float* HostRow(const Activation& x, int64_t row) { return HostData(x) + row * x.cols; }

// Floats of the host, [rows, cols], as an activation of such a backend. Borrows them.
inline Activation BorrowHost(const float* data, int64_t rows, int64_t cols) {
  const int64_t count = rows * cols;
  return {.buffer = Buffer(const_cast<float*>(data), count * static_cast<int64_t>(sizeof(float)),
                           [](void*) { /* borrowed */ }),
          .rows = rows,
          .cols = cols,
          .capacity = count};
}

struct HostRouting final : Routing {
  RoutingTable table;
};

inline RoutingTable& HostTable(Routing& routing) {
  return static_cast<HostRouting&>(routing).table;
}
inline const RoutingTable& HostTable(const Routing& routing) {
  return static_cast<const HostRouting&>(routing).table;
}

}  // namespace nibble
