#include "backend/make_backend.h"

#include "backend/cpu/cpu_backend.h"
#include "backend/cuda/device.h"
#include "backend/reference/reference_backend.h"
#include "nibble/error.h"

namespace nibble {

std::unique_ptr<Backend> MakeBackend(const std::string& name, const BackendOptions& options) {
  if (name == "cpu") return std::make_unique<CpuBackend>(options);
  if (name == "reference") return std::make_unique<ReferenceBackend>();
  if (name == "cuda" || name.starts_with("cuda:")) {
    throw Error(ErrorCode::kUnsupported, "backend \"" + name + "\": " + cuda::Devices().why_none);
  }
  throw Error(ErrorCode::kInvalidArgument,
              "unknown backend \"" + name + "\": expected cpu or reference");
}

}  // namespace nibble
