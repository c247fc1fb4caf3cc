#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "backend/make_backend.h"
#include "cli/flags.h"
#include "cli/output.h"
#include "tensor/dtype.h"

// How to add a command: AddFooCommand(app, run) declares the subcommand with its flags and, if it
// is chosen, sets `run` to the function that main() calls after parsing. The pattern:
//
//   void AddFooCommand(CLI::App& app, RunCommand& run) {
//     auto options = std::make_shared<FooOptions>();
//     CLI::App* command = AddSubcommand(app, "foo", "One line", "nibble foo MODEL --bar 3");
//     AddPath(*command, "model", options->model, "Checkpoint directory")->required();
//     command->callback([options, &run] { run = [options] { return RunFoo(*options); }; });
//   }
//
// stdout carries results (text, or one JSON document under --json), by output.h alone; logs and
// progress go to stderr.
namespace nibble {

// Returns the exit status; throws Error for anything that goes wrong.
using RunCommand = std::function<int()>;

// Exit statuses, the same for every command (docs/cli.md).
enum ExitStatus : int {
  kExitSuccess = 0,
  kExitFailure = 1,      // the input or the machine: bad data, missing file, input/output error
  kExitUsage = 2,        // a flag or argument
  kExitUnsupported = 3,  // well formed, but something nibble does not do
  kExitResources = 4,    // not enough memory or disk
  kExitFindings = 5,     // it ran, and --strict or verify found something
  kExitInternal = 70,    // a bug in nibble
  kExitInterrupted = 130,
};

// A subcommand whose help ends in `example`.
CLI::App* AddSubcommand(CLI::App& app, const std::string& name, const std::string& description,
                        const std::string& example);

// Flags many commands share.
struct DeviceOptions {
  std::string backend = "cpu";
  int threads = 0;  // 0: all available
  std::string activations = "int16";

  BackendOptions backend_options() const {
    return {.threads = threads,
            .instruction_set = {},
            .activation_bits = activations == "int8" ? 8 : 16};
  }
};
void AddDeviceOptions(CLI::App& command, DeviceOptions& options);
void AddThreadsOption(CLI::App& command, int& threads);
void AddActivationsOption(CLI::App& command, DeviceOptions& options);
void AddJsonFlag(CLI::App& command, bool& json);
// --kv-cache-dtype, and the type that its value names.
void AddKvCacheOption(CLI::App& command, std::string& name);
DType KvCacheType(const std::string& name);

// The words of a command line, as app.parse takes them: last first. CLI11 would read "--name=" as
// "--name" and take the next word for its value; here the value is the empty text.
std::vector<std::string> CommandLine(const CLI::App& app, int argc, const char* const* argv);

// The command whose words were parsed last: `app` itself if there was none.
const CLI::App& ChosenCommand(const CLI::App& app);

// A message of the library in the words of the command line: fields of options, which the library
// puts in backquotes (`max_seq_len`), become the flags of `command` (--max-seq-len).
std::string WithFlags(const std::string& message, const CLI::App& command);

// Every command, in the order of --help.
void AddCommands(CLI::App& app, RunCommand& run);

void AddQuantizeCommand(CLI::App& app, RunCommand& run);
void AddGenerateCommand(CLI::App& app, RunCommand& run);
void AddPerplexityCommand(CLI::App& app, RunCommand& run);
void AddLogitsCommand(CLI::App& app, RunCommand& run);
void AddInspectCommand(CLI::App& app, RunCommand& run);
void AddPackCommand(CLI::App& app, RunCommand& run);
void AddVerifyCommand(CLI::App& app, RunCommand& run);
void AddBenchCommand(CLI::App& app, RunCommand& run);
void AddCompletionCommand(CLI::App& app, RunCommand& run);

}  // namespace nibble
