#include "nibble/error.h"

namespace nibble {

Error Error::WithContext(const std::string& context) const {
  return Error(code_, context + ": " + what());
}

const char* ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid argument";
    case ErrorCode::kInvalidData:
      return "invalid data";
    case ErrorCode::kNotFound:
      return "not found";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kResourceExhausted:
      return "out of resources";
    case ErrorCode::kIo:
      return "input/output error";
    case ErrorCode::kInterrupted:
      return "interrupted";
    case ErrorCode::kInternal:
      return "internal error";
  }
  return "unknown error";
}

}  // namespace nibble
