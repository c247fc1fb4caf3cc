#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace re2 {
class RE2;
}

namespace nibble {

// An entry of a list of modules (ignore, targets) as compressed-tensors reads it: "re:R" means the
// modules at whose start Python's re.match finds R, anything else the one module of that name.
// Compiled once; a match takes time linear in the name, whatever the expression.
class ModulePattern {
 public:
  // Throws kUnsupported naming what a linear-time search cannot do (look-arounds, back-references,
  // …), kInvalidArgument for what is no regular expression of Python.
  explicit ModulePattern(std::string text);

  const std::string& text() const { return text_; }  // as it was given, with its "re:"
  bool Matches(std::string_view module) const;

 private:
  std::string text_;
  // Null for a name. Shared because it never changes and copies need not compile it again.
  std::shared_ptr<const re2::RE2> regex_;
};

std::vector<ModulePattern> CompilePatterns(const std::vector<std::string>& texts);
bool MatchesAny(std::span<const ModulePattern> patterns, std::string_view module);

}  // namespace nibble
