#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace nibble {

// One YAML document as JSON: plain scalars become null, booleans or numbers where they look like
// them (YAML 1.2 core schema), quoted ones stay strings. Aliases, tags of one's own, keys that are
// not scalars and keys given twice are refused, and so are more than 1 MiB, 32 levels or 20,000
// nodes: the document cannot cost more than its size. Throws kInvalidData with `where` and the
// line.
Json ParseYaml(std::string_view text, const std::string& where);

}  // namespace nibble
