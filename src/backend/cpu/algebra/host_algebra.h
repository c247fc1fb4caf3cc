#pragma once

#include <memory>

#include "backend/gptq_algebra.h"
#include "base/thread_pool.h"

namespace nibble {

// GPTQ's algebra on OpenBLAS kernels, one thread a call, tiles spread over `pool` (which must
// outlive the result). Throws kNotFound if the library is not installed.
std::unique_ptr<GptqAlgebra> MakeHostAlgebra(ThreadPool& pool);

}  // namespace nibble
