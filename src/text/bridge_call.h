#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

#include "nibble/error.h"

namespace nibble {

// The Error for what the Rust bridge threw: "data:the reason" becomes kInvalidData, "what: the
// reason".
Error BridgeError(const std::string& what, std::string_view thrown);

// Runs a call into the Rust bridge on behalf of `what` (a file, an option). Everything the bridge
// throws leaves as Error; so does text on its way there that is not UTF-8, as kInvalidData.
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
