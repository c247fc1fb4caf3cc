#include <fmt/format.h>

#include <memory>

#include "cli/command.h"

// Completion scripts are generated from the flags that the program declares, so they are always
// complete.
namespace nibble {
namespace {

std::vector<std::string> FlagsOf(const CLI::App& command) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

std::string Join(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, " "));
}

// Inside single quotes a quote is written '\'' by zsh and \' by fish.
std::string Quoted(const std::string& text, const std::string& quote) {
  std::string result;
  for (const char c : text) result += c == '\'' ? quote : std::string(1, c);
  return result;
}

std::string Bash(const CLI::App& app, const std::vector<const CLI::App*>& commands) {
  std::vector<std::string> names;
  std::string cases;
  for (const CLI::App* command : commands) {
    names.push_back(command->get_name());
    cases += fmt::format("    {}) words=\"{}\" ;;\n", command->get_name(), Join(FlagsOf(*command)));
  }
  return fmt::format(
      "# bash completion for nibble; load with: source <(nibble completion bash)\n"
      "_nibble() {{\n"
      "  local current=\"${{COMP_WORDS[COMP_CWORD]}}\" words=\"\"\n"
      "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
      "    COMPREPLY=($(compgen -W \"{} {}\" -- \"$current\"))\n"
      "    return\n"
      "  fi\n"
      "  case \"${{COMP_WORDS[1]}}\" in\n{}  esac\n"
      "  if [[ \"$current\" == -* ]]; then\n"
      "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "  else\n"
      "    COMPREPLY=($(compgen -f -- \"$current\"))\n"
      "  fi\n"
      "}}\n"
      "complete -o filenames -F _nibble nibble\n",
      Join(names), Join(FlagsOf(app)), cases);
}

std::string Zsh(const std::vector<const CLI::App*>& commands) {
  std::string names, cases;
  for (const CLI::App* command : commands) {
    names += fmt::format("    '{}:{}'\n", command->get_name(),
                         Quoted(command->get_description(), "'\\''"));
    cases += fmt::format("    {}) compadd -- {}; _files ;;\n", command->get_name(),
                         Join(FlagsOf(*command)));
  }
  return fmt::format(
      "#compdef nibble\n"
      "# zsh completion for nibble; save as _nibble in a folder of $fpath\n"
      "_nibble() {{\n"
      "  local -a commands=(\n{}  )\n"
      "  if (( CURRENT == 2 )); then\n"
      "    _describe command commands\n"
      "    return\n"
      "  fi\n"
      "  case $words[2] in\n{}  esac\n"
      "}}\n"
      "compdef _nibble nibble\n",
      names, cases);
}

std::string Fish(const std::vector<const CLI::App*>& commands) {
  std::string text = "# fish completion for nibble; load with: nibble completion fish | source\n";
  for (const CLI::App* command : commands) {
    text += fmt::format("complete -c nibble -n __fish_use_subcommand -a {} -d '{}'\n",
                        command->get_name(), Quoted(command->get_description(), "\\'"));
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        const std::string& full = option->get_description();
        text +=
            fmt::format("complete -c nibble -n '__fish_seen_subcommand_from {}' -l {} -d '{}'\n",
                        command->get_name(), name, Quoted(full.substr(0, full.find('\n')), "\\'"));
      }
    }
  }
  return text;
}

}  // namespace

void AddCompletionCommand(CLI::App& app, RunCommand& run) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = AddSubcommand(app, "completion", "Print a shell completion script",
                                    "source <(nibble completion bash)");
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([&app, shell, &run] {
    run = [&app, shell] {
      const CLI::App& root = app;
      const std::vector<const CLI::App*> commands =
          root.get_subcommands([](const CLI::App*) { return true; });
      const std::string script = *shell == "bash"  ? Bash(root, commands)
                                 : *shell == "zsh" ? Zsh(commands)
                                                   : Fish(commands);
      PrintText(script);
      return kExitSuccess;
    };
  });
}

}  // namespace nibble
