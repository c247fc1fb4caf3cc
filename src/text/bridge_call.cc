#include "text/bridge_call.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/utf8.h"

namespace nibble {
namespace {

// The words of rust/bridge/src/guard.rs.
constexpr std::array<std::pair<std::string_view, ErrorCode>, 5> kKinds = {{
    {"argument:", ErrorCode::kInvalidArgument},
    {"data:", ErrorCode::kInvalidData},
    {"io:", ErrorCode::kIo},
    {"not-found:", ErrorCode::kNotFound},
    {"unsupported:", ErrorCode::kUnsupported},
}};

constexpr size_t kMaxMessageBytes = 500;  // some libraries quote the whole document

}  // namespace

Error BridgeError(const std::string& what, std::string_view thrown) {
  for (const auto& [word, code] : kKinds) {
    if (!thrown.starts_with(word)) continue;
    std::string reason(Utf8Prefix(thrown.substr(word.size()), kMaxMessageBytes));
    std::replace(reason.begin(), reason.end(), '`', '"');  // in ours they mark fields of options
    return Error(code, what + ": " + reason);
  }
  return Error(ErrorCode::kInternal, what + ": " + std::string(thrown));
}

}  // namespace nibble
