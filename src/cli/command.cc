#include "cli/command.h"

#include <algorithm>
#include <string>
#include <vector>

namespace nibble {

namespace {

// Accepts cuda and cuda:N, for which MakeBackend throws an error with the reason and the remedy.
std::string CheckBackendName(std::string& name) {
  if (name == "cuda" || name.starts_with("cuda:")) return "";
  return CLI::IsMember({"cpu", "reference"})(name);
}

// The subcommand of that name, or `command` itself.
const CLI::App* FindSubcommand(const CLI::App& command, const std::string& name) {
  const auto found =
      command.get_subcommands([&](const CLI::App* other) { return other->get_name() == name; });
  return found.empty() ? &command : found.front();
}

// The flag that fills a field of the library's options: called the same, with few exceptions.
std::string FlagOfField(std::string field) {
  if (field == "act_order") return "--actorder";
  if (field == "memory_bytes") return "--memory";
  if (field == "max_shard_bytes") return "--max-shard-size";
  std::replace(field.begin(), field.end(), '_', '-');
  return "--" + field;
}

}  // namespace

CLI::App* AddSubcommand(CLI::App& app, const std::string& name, const std::string& description,
                        const std::string& example) {
  CLI::App* command = app.add_subcommand(name, description);
  command->footer("Example:\n  " + example);
  return command;
}

void AddDeviceOptions(CLI::App& command, DeviceOptions& options) {
  command.add_option("--backend", options.backend, "Where to compute; reference is slow and exact")
      ->check(CLI::Validator(CheckBackendName, "{cpu,reference}"))
      ->capture_default_str();
  AddThreadsOption(command, options.threads);
}

void AddThreadsOption(CLI::App& command, int& threads) {
  AddNumber(command, "--threads", threads, "Threads to compute with (0: all CPUs)", {0, 1024});
}

void AddKvCacheOption(CLI::App& command, std::string& name) {
  command
      .add_option("--kv-cache-dtype", name,
                  "Type of cached keys and values; auto is float32, int8 has a scale per token and "
                  "head")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16", "int8"}))
      ->capture_default_str();
}

DType KvCacheType(const std::string& name) {
  return name == "bfloat16" ? DType::kBF16 : name == "int8" ? DType::kI8 : DType::kF32;
}

void AddActivationsOption(CLI::App& command, DeviceOptions& options) {
  command
      .add_option("--activations", options.activations,
                  "What INT4 and INT8 weights are multiplied with: int16 (exact to 1.5e-5) or int8 "
                  "(faster, costs accuracy)")
      ->check(CLI::IsMember({"int16", "int8"}))
      ->capture_default_str();
}

void AddJsonFlag(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "Print one JSON document instead of text");
}

std::vector<std::string> CommandLine(const CLI::App& app, int argc, const char* const* argv) {
  const CLI::App* command = &app;
  bool is_value = false;     // of the flag before
  bool only_values = false;  // after "--"
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    words.push_back(word);
    if (is_value || only_values || !word.starts_with("--")) {
      if (!is_value) command = FindSubcommand(*command, word);
      is_value = false;
      continue;
    }
    only_values = word == "--";
    const size_t equals = word.find('=');
    const CLI::Option* option = command->get_option_no_throw(word.substr(0, equals));
    const bool takes_value = option != nullptr && option->get_items_expected_max() > 0;
    is_value = takes_value && equals == std::string::npos;
    if (takes_value && equals + 1 == word.size()) {
      words.back().pop_back();
      words.emplace_back();
    }
  }
  std::reverse(words.begin(), words.end());
  return words;
}

const CLI::App& ChosenCommand(const CLI::App& app) {
  const std::vector<CLI::App*> parsed = app.get_subcommands();
  return parsed.empty() ? app : ChosenCommand(*parsed.back());
}

std::string WithFlags(const std::string& message, const CLI::App& command) {
  std::string text;
  size_t done = 0;
  for (size_t open = 0; (open = message.find('`', done)) != std::string::npos;) {
    const size_t close = message.find('`', open + 1);
    if (close == std::string::npos) break;
    const std::string flag = FlagOfField(message.substr(open + 1, close - open - 1));
    const bool known = command.get_option_no_throw(flag) != nullptr;
    text += message.substr(done, (known ? open : close) - done) + (known ? flag : "");
    done = known ? close + 1 : close;
  }
  return text + message.substr(done);
}

void AddCommands(CLI::App& app, RunCommand& run) {
  AddQuantizeCommand(app, run);
  AddGenerateCommand(app, run);
  AddPerplexityCommand(app, run);
  AddLogitsCommand(app, run);
  AddInspectCommand(app, run);
  AddPackCommand(app, run);
  AddVerifyCommand(app, run);
  AddBenchCommand(app, run);
  AddCompletionCommand(app, run);
}

}  // namespace nibble
