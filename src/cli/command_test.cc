#include "cli/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "nibble/error.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;

// Every flag and argument of every command: a rule for one kind of value holds in the whole
// program.
class CommandTreeTest : public ::testing::Test {
 protected:
  CommandTreeTest() { AddCommands(app_, run_); }

  // Switches take no value and are left out.
  void ForEachOption(const std::function<void(const std::string& where, CLI::Option&)>& visit) {
    int count = 0;
    ForEachOption(app_, "nibble", [&](const std::string& where, CLI::Option& option) {
      ++count;
      visit(where, option);
    });
    EXPECT_GT(count, 60);
  }

  // Whether `option` is content with this argument.
  static bool Takes(CLI::Option& option, const std::string& argument) {
    option.clear();
    option.add_result(argument);
    try {
      option.run_callback();
      return true;
    } catch (const CLI::ParseError&) {
      return false;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
      return false;
    }
  }

  CLI::App app_;
  RunCommand run_;

 private:
  static void ForEachOption(
      CLI::App& command, const std::string& where,
      const std::function<void(const std::string& where, CLI::Option&)>& visit) {
    for (CLI::Option* option : command.get_options()) {
      if (option->get_items_expected_max() > 0) visit(where + " " + option->get_name(), *option);
    }
    for (CLI::App* sub : command.get_subcommands([](CLI::App*) { return true; })) {
      ForEachOption(*sub, where + " " + sub->get_name(), visit);
    }
  }
};

TEST_F(CommandTreeTest, EveryFlagTakesOneArgumentAsTyped) {
  ForEachOption([](const std::string& where, CLI::Option& option) {
    EXPECT_EQ(option.get_items_expected_max(), 1) << where << " takes what follows its argument";
    EXPECT_FALSE(option.get_allow_extra_args()) << where;
    for (const char* argument : {"[INST] a, b [/INST]", "[a,b]", "[]", "[[a]]", "{}", "a,b", "%%",
                                 "a b", "\"a\"", "'a'", " a "}) {
      option.clear();
      option.add_result(argument);
      EXPECT_THAT(option.results(), ElementsAre(argument)) << where;
    }
  });
}

TEST_F(CommandTreeTest, EveryNumberIsWholeAndFits) {
  int numbers = 0;
  ForEachOption([&](const std::string& where, CLI::Option& option) {
    if (Takes(option, "no number")) return;
    ++numbers;
    std::vector<std::string> refused = {"",    " ",    "1e999",    "-1e999", "nan", "NaN",
                                        "inf", "-inf", "infinity", "1x",     "x1",  "1 ",
                                        " 1",  "0x10", "--",       "1-",     "+"};
    if (!Takes(option, "0.25")) {
      refused.insert(refused.end(), {"99999999999999999999", "-99999999999999999999"});
    }
    for (const std::string& argument : refused) {
      EXPECT_FALSE(Takes(option, argument)) << where << " takes \"" << argument << '"';
    }
  });
  EXPECT_GT(numbers, 30);
}

TEST_F(CommandTreeTest, EveryTextIsUtf8AndEveryPathIsNamed) {
  int paths = 0;
  ForEachOption([&](const std::string& where, CLI::Option& option) {
    const bool is_path = option.get_type_name().starts_with("PATH");
    paths += is_path;
    if (is_path) {
      EXPECT_FALSE(Takes(option, "")) << where << " takes an empty path";
    } else {
      EXPECT_FALSE(Takes(option, "a\xff")) << where << " takes a text that is not UTF-8";
    }
  });
  EXPECT_GT(paths, 15);
}

TEST_F(CommandTreeTest, AnEmptyValueBehindAnEqualsSignIsTheValue) {
  const auto words = [&](const std::vector<const char*>& typed) {
    std::vector<const char*> argv = {"nibble"};
    argv.insert(argv.end(), typed.begin(), typed.end());
    std::vector<std::string> line = CommandLine(app_, static_cast<int>(argv.size()), argv.data());
    std::reverse(line.begin(), line.end());  // CLI11 wants it backwards
    return line;
  };
  EXPECT_THAT(words({"generate", "m", "--prompt=", "--json"}),
              ElementsAre("generate", "m", "--prompt", "", "--json"));
  EXPECT_THAT(words({"generate", "m", "--json", "--prompt=", "--stop=a="}),
              ElementsAre("generate", "m", "--json", "--prompt", "", "--stop=a="));
  // It is the value of the flag before, no flag at all, or behind the end of flags.
  EXPECT_THAT(words({"generate", "--prompt", "--stop=", "m"}),
              ElementsAre("generate", "--prompt", "--stop=", "m"));
  EXPECT_THAT(words({"generate", "m", "--no-such-flag=", "--json="}),
              ElementsAre("generate", "m", "--no-such-flag=", "--json="));
  EXPECT_THAT(words({"inspect", "--", "--prompt="}), ElementsAre("inspect", "--", "--prompt="));
  EXPECT_THAT(words({"bench", "kernels", "--filter="}),
              ElementsAre("bench", "kernels", "--filter", ""));
  EXPECT_THAT(words({}), ElementsAre());
}

TEST_F(CommandTreeTest, FieldsBecomeTheFlagsOfTheCommand) {
  const CLI::App& quantize = *app_.get_subcommand("quantize");
  EXPECT_EQ(WithFlags("`max_seq_len`: expected at least 1; lower `samples`", quantize),
            "--max-seq-len: expected at least 1; lower --samples");
  EXPECT_EQ(WithFlags("`act_order` static, `memory_bytes`, `max_shard_bytes`", quantize),
            "--actorder static, --memory, --max-shard-size");
  // What this command has no flag for stays.
  EXPECT_EQ(WithFlags("(`make cuda`) `top_p`: `samples`", quantize),
            "(`make cuda`) `top_p`: --samples");
  for (const char* text : {"", "plain", "`", "``", "`samples", "an odd ` before"}) {
    EXPECT_EQ(WithFlags(text, quantize), text);
  }
  EXPECT_EQ(WithFlags("an odd ` before `samples`", quantize), "an odd ` before --samples");
}

TEST_F(CommandTreeTest, TheChosenCommandIsTheInnermost) {
  EXPECT_EQ(&ChosenCommand(app_), &app_);
  app_.parse(std::vector<std::string>{"kernels", "bench"});
  EXPECT_EQ(ChosenCommand(app_).get_name(), "kernels");
}

}  // namespace
}  // namespace nibble
