#include "checkpoint/module_pattern.h"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <utility>

#include "base/utf8.h"
#include "nibble/error.h"

namespace nibble {
namespace {

constexpr std::string_view kRegexPrefix = "re:";

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsOctal(char c) { return c >= '0' && c <= '7'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Respells a regular expression of Python's for RE2, token by token. What RE2 cannot do is refused
// by its name; what is wrong in both languages is left for RE2 to say.
// Source: https://docs.python.org/3/library/re.html, https://github.com/google/re2/wiki/Syntax
class Respeller {
 public:
  explicit Respeller(std::string_view python) : python_(python), rest_(python) {}

  std::string Run() {
    while (!rest_.empty()) {
      if (Take("\\")) {
        Escape();
      } else if (Take("[")) {
        CharacterClass();
      } else if (Take("(?")) {
        Extension();
      } else if (!Repeat()) {
        re2_ += Next();
      }
    }
    return std::move(re2_);
  }

 private:
  Error Unsupported(std::string_view what) const {
    return Error(
        ErrorCode::kUnsupported,
        fmt::format("pattern {}: has {}, which nibble does not evaluate; write it without, "
                    "or list the modules by name",
                    Quoted(python_), what));
  }

  Error Invalid(const std::string& why) const {
    return Error(
        ErrorCode::kInvalidArgument,
        fmt::format("pattern {}: not a regular expression of Python's: {}", Quoted(python_), why));
  }

  bool Take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }

  char Next() {
    const char c = rest_.front();
    rest_.remove_prefix(1);
    return c;
  }

  // The run of characters at the front that `wanted` holds for, at most `count`.
  template <typename Predicate>
  std::string_view TakeWhile(Predicate wanted, size_t count = std::string_view::npos) {
    const std::string_view window = rest_.substr(0, count);
    const auto end = std::find_if_not(window.begin(), window.end(), wanted);
    const std::string_view run = window.substr(0, static_cast<size_t>(end - window.begin()));
    rest_.remove_prefix(run.size());
    return run;
  }

  // *, +, ?, {m}, {m,}, {m,n}, and Python's {,n}. Any other brace stands for itself.
  bool Repeat() {
    const std::string_view before = rest_;
    if (Take("{")) {
      const std::string_view least = TakeWhile(IsDigit);
      const bool range = Take(",");
      const std::string_view most = range ? TakeWhile(IsDigit) : least;
      if (!Take("}") || (!range && least.empty())) {
        rest_ = before;
        return false;
      }
      re2_ += range ? fmt::format("{{{},{}}}", least.empty() ? "0" : least, most)
                    : fmt::format("{{{}}}", least);
    } else if (Take("*") || Take("+") || Take("?")) {
      re2_ += before.front();
    } else {
      return false;
    }
    if (rest_.starts_with('+')) throw Unsupported("a possessive repetition");
    if (Take("?")) re2_ += '?';
    return true;
  }

  // What follows a backslash outside a class.
  void Escape() {
    if (rest_.empty()) throw Invalid("a backslash at its end");
    if (Take("Z")) {
      re2_ += "\\z";
    } else if (IsDigit(rest_.front())) {
      const bool octal =
          rest_.size() >= 3 && std::all_of(rest_.begin(), rest_.begin() + 3, IsOctal);
      if (!octal && rest_.front() != '0') throw Unsupported("a back-reference");
      Octal();
    } else {
      CommonEscape("AbBdDsSwWz");
    }
  }

  // Escapes with one meaning inside and outside of classes, and `letters` that RE2 spells alike.
  void CommonEscape(std::string_view letters) {
    const char c = Next();
    if (c == 'u' || c == 'U' || c == 'x') {
      const size_t width = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const std::string_view digits = TakeWhile(
          [](char d) { return IsDigit(d) || (d >= 'a' && d <= 'f') || (d >= 'A' && d <= 'F'); },
          width);
      if (digits.size() < width) throw Invalid(fmt::format("\\{} needs {} digits", c, width));
      re2_ += fmt::format("\\x{{{}}}", digits);
    } else if (IsLetter(c)) {
      if (letters.find(c) == std::string_view::npos &&
          std::string_view("afnrtv").find(c) == std::string_view::npos) {
        throw Invalid(fmt::format("bad escape \\{}", c));
      }
      re2_ += {'\\', c};
    } else if (c == '_' || static_cast<unsigned char>(c) >= 0x80) {
      re2_ += c;  // itself; RE2 wants no backslash before a letter of any alphabet
    } else {
      re2_ += {'\\', c};
    }
  }

  // Up to three octal digits.
  void Octal() {
    int code = 0;
    for (const char digit : TakeWhile(IsOctal, 3)) code = 8 * code + (digit - '0');
    if (code > 0377) throw Invalid("an octal escape above \\377");
    re2_ += fmt::format("\\x{{{:x}}}", code);
  }

  // What follows a bracket. Python knows no classes by name: "[" means itself here.
  void CharacterClass() {
    re2_ += '[';
    if (Take("^")) re2_ += '^';
    bool first = true;
    for (; !rest_.empty() && (first || !rest_.starts_with(']')); first = false) {
      if (Take("[")) {
        re2_ += "\\[";
      } else if (!Take("\\")) {
        re2_ += Next();
      } else if (Take("b")) {
        re2_ += "\\x08";
      } else if (!rest_.empty() && IsOctal(rest_.front())) {
        Octal();
      } else if (!rest_.empty()) {
        CommonEscape("dDsSwW");
      }
    }
    if (!Take("]")) throw Invalid("unterminated character set");
    re2_ += ']';
  }

  // What follows "(?".
  void Extension() {
    static const std::pair<std::string_view, std::string_view> kRefused[] = {
        {"=", "a look-ahead (?=…)"},       {"!", "a negative look-ahead (?!…)"},
        {"<=", "a look-behind (?<=…)"},    {"<!", "a negative look-behind (?<!…)"},
        {"P=", "a back-reference (?P=…)"}, {"(", "a conditional group (?(…)…)"},
        {">", "an atomic group (?>…)"}};
    for (const auto& [prefix, what] : kRefused) {
      if (rest_.starts_with(prefix)) throw Unsupported(what);
    }
    if (Take("#")) {
      TakeWhile([](char c) { return c != ')'; });
      if (!Take(")")) throw Invalid("unterminated comment");
    } else if (Take("P<")) {
      re2_ += "(?P<";
    } else {
      Flags();
    }
  }

  // Flags for what follows ("i)") or for a group ("i:"), maybe none. A module's name is ASCII, so
  // that whether letters of other alphabets count makes no difference.
  void Flags() {
    std::string flags;
    for (const char flag : TakeWhile([](char c) { return IsLetter(c) || c == '-'; })) {
      if (flag == 'x') throw Unsupported("the verbose flag (?x)");
      if (std::string_view("aimsu-").find(flag) == std::string_view::npos) {
        throw Invalid(fmt::format("unknown flag {}", flag));
      }
      if (flag != 'a' && flag != 'u') flags += flag;
    }
    if (!rest_.starts_with(')') && !rest_.starts_with(':')) {
      throw Invalid("unknown extension after (?");
    }
    if (Take(")")) {
      re2_ += flags.empty() ? "" : fmt::format("(?{})", flags);
    } else {
      re2_ += "(?" + flags;
    }
  }

  const std::string_view python_;
  std::string_view rest_;
  std::string re2_;
};

}  // namespace

ModulePattern::ModulePattern(std::string text) : text_(std::move(text)) {
  if (!text_.starts_with(kRegexPrefix)) return;
  const std::string_view python = std::string_view(text_).substr(kRegexPrefix.size());
  RE2::Options options;
  options.set_log_errors(false);
  auto regex = std::make_shared<const RE2>(Respeller(python).Run(), options);
  if (!regex->ok()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("pattern {}: not a regular expression that nibble understands: {}",
                            Quoted(python), regex->error()));
  }
  regex_ = std::move(regex);
}

bool ModulePattern::Matches(std::string_view module) const {
  if (regex_ == nullptr) return text_ == module;
  return regex_->Match(module, 0, module.size(), RE2::ANCHOR_START, nullptr, 0);
}

std::vector<ModulePattern> CompilePatterns(const std::vector<std::string>& texts) {
  return std::vector<ModulePattern>(texts.begin(), texts.end());
}

bool MatchesAny(std::span<const ModulePattern> patterns, std::string_view module) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const ModulePattern& pattern) { return pattern.Matches(module); });
}

}  // namespace nibble
