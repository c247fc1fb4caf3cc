#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <new>

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

int Main(int argc, char** argv) {
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
  AddQuantizeCommand(app, run);
  AddGenerateCommand(app, run);
  AddPerplexityCommand(app, run);
  AddLogitsCommand(app, run);
  AddInspectCommand(app, run);
  AddPackCommand(app, run);
  AddVerifyCommand(app, run);
  AddBenchCommand(app, run);
  AddCompletionCommand(app, run);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // CLI11 prints help and versions to stdout with status 0, mistakes to stderr.
    return app.exit(error) == 0 ? kExitSuccess : kExitUsage;
  }
  SetLogLevel(log_level == "debug"     ? LogLevel::kDebug
              : log_level == "info"    ? LogLevel::kInfo
              : log_level == "warning" ? LogLevel::kWarning
              : log_level == "error"   ? LogLevel::kError
                                       : LogLevel::kOff);
  InstallInterruptHandler();
  try {
    const int status = run();
    // A full disk or a closed pipe behind stdout is a failure too, not a short result.
    if (std::fflush(stdout) != 0) throw Error(ErrorCode::kIo, "stdout: could not write the result");
    return status;
  } catch (const Error& error) {
    fmt::print(stderr, "nibble: {}\n", error.what());
    return ExitStatusOf(error.code());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "nibble: out of memory; close other programs or lower --memory\n");
    return kExitResources;
  } catch (const std::exception& error) {
    fmt::print(stderr, "nibble: internal error: {}\n", error.what());
    return kExitInternal;
  }
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) { return nibble::Main(argc, argv); }
