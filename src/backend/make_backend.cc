#include "backend/make_backend.h"

#include "backend/cpu/cpu_backend.h"
#include "backend/reference/reference_backend.h"
#include "nibble/error.h"

namespace nibble {

std::unique_ptr<Backend> MakeBackend(const std::string& name, const BackendOptions& options) {
  if (name == "cpu") return std::make_unique<CpuBackend>(options);
  if (name == "reference") return std::make_unique<ReferenceBackend>();
  throw Error(ErrorCode::kInvalidArgument,
              "unknown backend \"" + name + "\": expected cpu or reference");
}

}  // namespace nibble
