#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"

namespace nibble {

struct BackendOptions {
  int threads = 0;              // 0: all CPUs this process may use
  std::string instruction_set;  // empty: the best of this machine; names: instruction_set.h
  int activation_bits = 16;     // of the activations multiplied with packed weights: 16 or 8
};

// "cpu" or "reference". Throws kInvalidArgument naming the allowed values, and kUnsupported for
// "cuda" or "cuda:N", whose kernels are not behind this seam yet.
std::unique_ptr<Backend> MakeBackend(const std::string& name, const BackendOptions& options = {});

}  // namespace nibble
