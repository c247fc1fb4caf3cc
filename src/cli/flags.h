#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

// The kinds of value a flag (or a positional argument) takes. Every flag that is not a switch or a
// choice of words (CLI::IsMember) is declared by one of these, so that each argument is taken as
// typed and whole, or refused by name: CLI11's own conversions split "[a,b]" and "a,b", swallow
// what follows, clamp numbers that do not fit and read 010 as eight. command_test.cc walks over all
// commands and finds a flag declared in another way.
//
// All throw Error(kInvalidArgument) naming the flag while the command line is parsed.
namespace nibble {

// Text: valid UTF-8, since it becomes tokens, a pattern or JSON.
CLI::Option* AddText(CLI::App& command, const std::string& name, std::string& text,
                     const std::string& description);
// Text that may be given again: one element each time the flag stands on the command line.
CLI::Option* AddTexts(CLI::App& command, const std::string& name, std::vector<std::string>& texts,
                      const std::string& description);

// A file or a directory: any bytes that the system allows, but not none.
CLI::Option* AddPath(CLI::App& command, const std::string& name, std::string& path,
                     const std::string& description);
CLI::Option* AddPath(CLI::App& command, const std::string& name, std::filesystem::path& path,
                     const std::string& description);

// The values a number may have, both ends included.
template <typename T>
struct Limits {
  T least = std::numeric_limits<T>::lowest();
  T most = std::numeric_limits<T>::max();
};

// A number in decimal: int, int64_t, uint64_t or double. Help shows its default.
template <typename T>
CLI::Option* AddNumber(CLI::App& command, const std::string& name, T& number,
                       const std::string& description, Limits<T> limits = {});
// Numbers with commas between them: "7" or "1,2,3". The flag may be given again, which adds to them.
template <typename T>
CLI::Option* AddNumbers(CLI::App& command, const std::string& name, std::vector<T>& numbers,
                        const std::string& description, Limits<T> limits = {});

// A size in bytes, with a decimal or binary unit or none: "8GB", "1.5 GiB", "4096". Help shows its
// default unless that is 0.
CLI::Option* AddByteSize(CLI::App& command, const std::string& name, int64_t& bytes,
                         const std::string& description);

// What stands behind them: the value of `text`, or an error that names `flag`.
template <typename T>
T ParseNumber(const std::string& text, const std::string& flag, Limits<T> limits = {});
int64_t ParseByteSize(const std::string& text, const std::string& flag);

}  // namespace nibble
