#include "base/current_error.h"

#include <fmt/format.h>

#include <cerrno>
#include <exception>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <system_error>

#include "base/json.h"

namespace nibble {

ErrorCode CodeOfErrno(int code) {
  switch (code) {
    case ENOENT:
    case ENOTDIR:
      return ErrorCode::kNotFound;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOMEM:
    case EAGAIN:
    case EMFILE:
    case ENFILE:
      return ErrorCode::kResourceExhausted;
    default:
      return ErrorCode::kIo;
  }
}

Error CurrentError() {
  constexpr int kInvalidUtf8 = 316;  // nlohmann's number for a string it cannot write
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::filesystem::filesystem_error& error) {
    std::string where = error.path1().string();
    if (!error.path2().empty()) where += fmt::format(" ({})", error.path2().string());
    return Error(
        CodeOfErrno(error.code().value()),
        fmt::format("{}: {}", where.empty() ? "an empty path" : where, error.code().message()));
  } catch (const std::system_error& error) {
    const ErrorCode code = CodeOfErrno(error.code().value());
    return Error(code, fmt::format("the system refused: {}{}", error.what(),
                                   error.code().value() == EAGAIN
                                       ? "; it may allow no more threads: lower `threads`"
                                       : ""));
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::kResourceExhausted,
                 "out of memory; close other programs or ask for less");
  } catch (const std::length_error&) {
    return Error(ErrorCode::kResourceExhausted,
                 "out of memory: more was asked for than any machine has; ask for less");
  } catch (const Json::type_error& error) {
    if (error.id == kInvalidUtf8) {
      return Error(ErrorCode::kInvalidData,
                   fmt::format("a text that is not UTF-8 cannot become JSON: {}", error.what()));
    }
    return Error(ErrorCode::kInternal, fmt::format("internal error: {}", error.what()));
  } catch (const std::exception& error) {
    return Error(ErrorCode::kInternal, fmt::format("internal error: {}", error.what()));
  } catch (...) {
    return Error(ErrorCode::kInternal, "internal error: an exception of an unknown type");
  }
}

}  // namespace nibble
