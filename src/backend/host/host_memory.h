#pragma once

#include <cstdint>

#include "backend/activation.h"
#include "backend/buffer.h"

namespace nibble {

// Zeroed memory, aligned to 64 bytes and with 64 readable bytes behind it, in huge pages where it
// is large. Throws kResourceExhausted.
Buffer HostBuffer(int64_t bytes);

// Room for activations of such a backend. Throws kResourceExhausted.
Activation HostActivation(int64_t capacity_rows, int64_t cols);

}  // namespace nibble
