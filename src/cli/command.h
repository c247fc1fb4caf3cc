#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "backend/make_backend.h"
#include "base/json.h"
#include "tensor/dtype.h"

// How a command joins the program: AddFooCommand(app, run) declares the subcommand with its flags
// and, when it is the one chosen, leaves in `run` what main() shall call after parsing. The
// pattern:
//
//   void AddFooCommand(CLI::App& app, RunCommand& run) {
//     auto options = std::make_shared<FooOptions>();
//     CLI::App* command = AddSubcommand(app, "foo", "One line", "nibble foo MODEL --bar 3");
//     command->add_option("model", options->model, "Checkpoint directory")->required();
//     command->callback([options, &run] { run = [options] { return RunFoo(*options); }; });
//   }
//
// stdout carries results (text, or one JSON document under --json); logs and progress go to stderr.
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
  kExitFindings = 5,     // it ran, and found what --strict or verify was asked to find
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
void AddActivationsOption(CLI::App& command, DeviceOptions& options);
void AddJsonFlag(CLI::App& command, bool& json);
// --kv-cache-dtype, and what its value means.
void AddKvCacheOption(CLI::App& command, std::string& name);
DType KvCacheType(const std::string& name);

// Parses "8GB", "512MiB", "4096": decimal and binary units. Throws kInvalidArgument naming `flag`.
int64_t ParseByteSize(const std::string& text, const std::string& flag);

// The document on stdout, indented, with a final newline.
void PrintJson(const Json& document);

// A table for people: columns padded, columns of numbers right-aligned.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> headings);
  void AddRow(std::vector<std::string> cells);  // as many cells as headings
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // headings first
};

// The commands, in the order of --help.
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
