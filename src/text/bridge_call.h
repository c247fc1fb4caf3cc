#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

#include "nibble/error.h"

namespace nibble {

// The Error for an exception of the Rust bridge: "data:the reason" becomes kInvalidData, "what: the
// reason".
Error BridgeError(const std::string& what, std::string_view thrown);

// Runs a call into the Rust bridge on behalf of `what` (a file, an option). Converts every
// exception of the bridge to Error.
template <typename Call>
decltype(auto) BridgeCall(const std::string& what, Call&& call) {
  try {
    return call();
  } catch (const std::invalid_argument&) {  // by rust::Str and rust::String
    throw BridgeError(what, "data:not valid UTF-8");
  } catch (const std::exception& error) {
    throw BridgeError(what, error.what());
  }
}

}  // namespace nibble
