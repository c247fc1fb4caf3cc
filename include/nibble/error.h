#pragma once

#include <stdexcept>
#include <string>

namespace nibble {

// Why an operation could not go on. The command line maps codes to exit statuses (docs/cli.md).
enum class ErrorCode {
  kInvalidArgument,    // a flag, option or request value that is not allowed
  kInvalidData,        // a file that is malformed, truncated or contradicts itself
  kNotFound,           // a missing file, tensor or key
  kUnsupported,        // well formed, but something nibble does not do
  kResourceExhausted,  // not enough memory or disk
  kIo,                 // the operating system refused to read or write
  kInterrupted,        // Ctrl-C or SIGTERM
  kInternal,           // a bug in nibble
};

// The one exception type. The message names the thing (file, tensor, field, flag), what was
// expected, what was found and what to do next.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  ErrorCode code() const { return code_; }

  // The same error with `context` put in front, for layers that know more ("shard 3: …").
  Error WithContext(const std::string& context) const;

 private:
  ErrorCode code_;
};

// "invalid argument", "invalid data", …
const char* ErrorCodeName(ErrorCode code);

}  // namespace nibble
