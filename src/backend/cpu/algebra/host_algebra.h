#pragma once

#include <memory>

#include "backend/gptq_algebra.h"
#include "base/thread_pool.h"

namespace nibble {

// GPTQ's algebra on OpenBLAS kernels, one thread a call, tiles spread over `pool` (which must
// outlive the result). The kernels are those for an instruction set, by the name that
// NIBBLE_INSTRUCTION_SET has for it, or if that is empty the best this machine has. The library is
// loaded when it is first needed; what needs it throws kNotFound if it is not installed.
std::unique_ptr<GptqAlgebra> MakeHostAlgebra(ThreadPool& pool,
                                             std::string_view instruction_set = {});

}  // namespace nibble
