#pragma once

#include <cstdint>

#include "backend/host/host_kv_pages.h"

namespace nibble::cpu {

// Writes the keys and values [num_kv_heads, head_dim] of one token to slot `slot` of KV block
// `block`. Plain code without dispatch, so that every machine writes the same bytes. Allocates
// nothing.
void StoreKeyValue(const HostKvLayer& kv, int64_t block, int64_t slot, const float* k,
                   const float* v);

}  // namespace nibble::cpu
