#pragma once

// A stand-in for CUDA's header of this name: see cuda_runtime.h in this folder.

#include "base/float16.h"

struct __nv_bfloat16 {
  nibble::BFloat16 value;
};

inline __nv_bfloat16 __float2bfloat16(float value) { return {nibble::BFloat16(value)}; }
inline float __bfloat162float(__nv_bfloat16 value) { return static_cast<float>(value.value); }
