#pragma once

#include <string>
#include <vector>

namespace nibble {

// What the author of a recipe's pattern (a name, or "re:" and a regular expression) may have meant:
// at most three of `names`, the likest first, by the letters that would have to change. Names that
// differ in numbers alone (the same linear of other layers) count as one.
std::vector<std::string> NearestNames(const std::string& pattern,
                                      const std::vector<std::string>& names);

}  // namespace nibble
