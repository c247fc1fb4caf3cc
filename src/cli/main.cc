#include <cstdio>
#include <sstream>

#include "base/current_error.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "cli/command.h"
#include "nibble/error.h"

namespace nibble {
namespace {

int ExitStatusOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return kExitUsage;
    case ErrorCode::kUnsupported:
      return kExitUnsupported;
    case ErrorCode::kResourceExhausted:
      return kExitResources;
    case ErrorCode::kInterrupted:
      return kExitInterrupted;
    case ErrorCode::kInternal:
      return kExitInternal;
    case ErrorCode::kInvalidData:
    case ErrorCode::kNotFound:
    case ErrorCode::kIo:
      return kExitFailure;
  }
  return kExitInternal;
}

LogLevel LevelOf(const std::string& name) {
  return name == "debug"     ? LogLevel::kDebug
         : name == "info"    ? LogLevel::kInfo
         : name == "warning" ? LogLevel::kWarning
         : name == "error"   ? LogLevel::kError
                             : LogLevel::kOff;
}

// "nibble bench decode"
std::string FullName(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return (parent == nullptr ? "" : FullName(*parent) + " ") + command.get_name();
}

// Parses the command line. Returns false where it asked for nothing but help or the version, which
// are printed. Throws Error.
bool Parse(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(CommandLine(app, argc, argv));
    return true;
  } catch (const CLI::Success& asked) {  // so CLI11 calls --help and --version
    std::ostringstream text;
    app.exit(asked, text, text);
    PrintText(text.str());
    return false;
  } catch (const CLI::ParseError& mistake) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}; {} --help explains", mistake.what(),
                                                         FullName(ChosenCommand(app))));
  }
}

int Main(int argc, const char* const* argv) {
  OpenStandardStreams();
  CLI::App app("nibble: INT4 mixture-of-experts models, quantized, run and measured natively",
               "nibble");
  app.set_version_flag("--version", "nibble " NIBBLE_VERSION);
  app.require_subcommand(1);
  app.footer(
      "nibble COMMAND --help explains a command. Exit statuses: 0 success, 1 bad input or I/O,\n"
      "2 usage, 3 unsupported, 4 out of memory or disk, 5 findings, 70 internal, 130 interrupted.");
  std::string log_level = "info";
  app.add_option("--log-level", log_level, "How much to tell on stderr")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}))
      ->capture_default_str();
  RunCommand run;
  AddCommands(app, run);

  try {
    int status = kExitSuccess;
    if (Parse(app, argc, argv)) {
      SetLogLevel(LevelOf(log_level));
      InstallInterruptHandler();
      status = run();
    }
    FlushOutput();
    return status;
  } catch (...) {
    const Error error = CurrentError();
    // Not by fmt, which would throw where stderr is closed.
    std::fprintf(stderr, "nibble: %s\n", WithFlags(error.what(), ChosenCommand(app)).c_str());
    return ExitStatusOf(error.code());
  }
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) { return nibble::Main(argc, argv); }
