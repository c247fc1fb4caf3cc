#include "backend/make_backend.h"

#include "backend/reference/reference_backend.h"
#include "nibble/error.h"

namespace nibble {

std::unique_ptr<Backend> MakeBackend(const std::string& name, const BackendOptions& /*options*/) {
  if (name == "reference") return std::make_unique<ReferenceBackend>();
  throw Error(ErrorCode::kInvalidArgument, "backend: expected reference, found " + name);
}

}  // namespace nibble
