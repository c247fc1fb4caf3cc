#include <memory>

#include "cli/command.h"
#include "nibble/quantize.h"
#include "quantize/report.h"

namespace nibble {
namespace {

struct QuantizeFlags {
  QuantizeOptions options;
  DeviceOptions device;
  std::string recipe_file;
  std::vector<std::string> ignore;  // beside the head and the routers
  bool strict = false;
  bool dry_run = false;
  bool json = false;
};

int RunQuantize(QuantizeFlags flags) {
  QuantizeOptions& options = flags.options;
  options.backend = flags.device.backend;
  options.strict = flags.strict;
  options.threads = flags.device.threads;
  if (flags.recipe_file == "-" && options.calibration == "-") {
    throw Error(ErrorCode::kInvalidArgument,
                "--recipe and --calibration: standard input can be only one of them");
  }
  if (!flags.recipe_file.empty()) options.recipe = ReadRecipe(flags.recipe_file);
  options.recipe.ignore.insert(options.recipe.ignore.end(), flags.ignore.begin(),
                               flags.ignore.end());

  if (flags.dry_run) {
    const QuantizePlan plan = PlanQuantization(options);
    flags.json ? PrintJson(ToJson(plan)) : PrintText(PlanTable(plan));
    FlushOutput();  // before the error, where both go to one place
    RequireResources(plan);
    return kExitSuccess;
  }
  const QuantizeReport report = Quantize(options);
  flags.json ? PrintJson(ToJson(report)) : PrintText(ReportTable(report));
  return flags.strict && !report.clean() ? kExitFindings : kExitSuccess;
}

}  // namespace

void AddQuantizeCommand(CLI::App& app, RunCommand& run) {
  auto flags = std::make_shared<QuantizeFlags>();
  QuantizeOptions& options = flags->options;
  RecipeOptions& recipe = options.recipe;
  CLI::App* command = AddSubcommand(
      app, "quantize", "Turn a 16-bit checkpoint into a 4- or 8-bit one",
      "nibble quantize demo/tinymix out --calibration demo/calibration.jsonl --samples 256\n"
      "\n"
      "The defaults are the recipe of the published 8x22B checkpoint: GPTQ, 4 bits, symmetric, "
      "groups\n"
      "of 128, min-max scales, damping 0.1. --actorder static and --observer imatrix_mse often "
      "gain a\n"
      "little more and change nothing for readers; --actorder group does (not every server loads "
      "it).\n"
      "The report beside the weights tells, for each linear, its error and what rounding to "
      "nearest\n"
      "would have cost. A run that was stopped goes on with the same flags and --resume.");
  AddPath(*command, "input", options.input, "Checkpoint directory: bf16, fp16 or fp32")->required();
  AddPath(*command, "output", options.output, "New directory for the quantized checkpoint")
      ->required();

  const char* const kData = "Calibration";
  AddPath(*command, "--calibration", options.calibration,
          "Rows to calibrate with: .jsonl, .json, .csv, .tsv, .txt or .parquet, also .gz or .zst; "
          "-: JSON from standard input")
      ->group(kData);
  AddNumber(*command, "--samples", options.samples, "Rows taken, after a seeded shuffle",
            {.least = 1})
      ->group(kData);
  AddNumber(*command, "--max-seq-len", options.max_seq_len, "Tokens kept of a row (0: all)",
            {.least = 0})
      ->group(kData);
  AddNumber(*command, "--seed", options.seed, "Of the shuffle")->group(kData);
  AddText(*command, "--text-column", options.text_column,
          "Column to read (else instruction and output, or text)")
      ->group(kData);
  command->add_flag("--chat", options.chat, "Rows are message lists for the model's chat template")
      ->group(kData);
  command
      ->add_flag("--calibrate-all-experts", options.calibrate_all_experts,
                 "Show every token to every expert (else the routed ones)")
      ->group(kData);
  command
      ->add_flag("--top-up-experts", options.top_up_experts,
                 "Show starved experts the tokens they nearly got")
      ->group(kData);

  const char* const kRecipe = "Recipe";
  std::vector<CLI::Option*> in_recipe;
  in_recipe.push_back(
      command->add_option("--method", recipe.method, "gptq, or rtn: round to nearest")
          ->check(CLI::IsMember({"gptq", "rtn"})));
  in_recipe.push_back(AddNumber(*command, "--bits", recipe.bits, "Of a weight: 4 or 8"));
  in_recipe.push_back(
      command->add_option("--group-size", recipe.group_size, "Weights of a row that share a scale")
          ->check(CLI::IsMember({"32", "64", "128", "channel"})));
  in_recipe.push_back(command->add_flag("--asymmetric", recipe.asymmetric,
                                        "Store zero points (servers may refuse)"));
  in_recipe.push_back(command
                          ->add_option("--observer", recipe.observer,
                                       "How scales are chosen: the range, or the least error")
                          ->check(CLI::IsMember({"minmax", "mse", "imatrix_mse"})));
  in_recipe.push_back(command
                          ->add_option("--actorder", recipe.act_order,
                                       "Order of columns: by their activations, or not")
                          ->check(CLI::IsMember({"none", "static", "weight", "group"})));
  in_recipe.push_back(AddNumber(*command, "--dampening", recipe.dampening,
                                "Share of the mean diagonal added to a Hessian's diagonal"));
  in_recipe.push_back(
      AddNumber(*command, "--block-size", recipe.block_size, "Columns between two bulk updates"));
  in_recipe.push_back(
      command
          ->add_option("--dead-columns", recipe.dead_columns,
                       "Weights of inputs that were always zero: keep them, or zero them")
          ->check(CLI::IsMember({"keep", "zero"})));
  for (CLI::Option* option : in_recipe) option->group(kRecipe);
  for (size_t i = 0; i < in_recipe.size(); ++i) {
    if (i != 3) in_recipe[i]->capture_default_str();  // all but the flag
  }
  AddTexts(*command, "--ignore", flags->ignore,
           "Leave this linear alone too: a name or re:PATTERN; may be given again")
      ->group(kRecipe);
  CLI::Option* recipe_file = AddPath(*command, "--recipe", flags->recipe_file,
                                     "Take all this from an llm-compressor recipe (YAML) instead");
  recipe_file->group(kRecipe);
  for (CLI::Option* option : in_recipe) recipe_file->excludes(option);

  const char* const kRun = "Run";
  AddByteSize(*command, "--memory", options.memory_bytes,
              "Budget of resident memory, such as 8GB (else most of what is free)")
      ->group(kRun);
  AddByteSize(*command, "--max-shard-size", options.max_shard_bytes, "Of an output file")
      ->group(kRun);
  command->add_flag("--resume", options.resume, "Continue an unfinished run")->group(kRun);
  command
      ->add_flag("--strict", flags->strict,
                 "Refuse --ignore patterns that match nothing; exit with status 5 if any linear "
                 "fell back to rounding")
      ->group(kRun);
  command->add_flag("--dry-run", flags->dry_run, "Only say what memory, disk and time it will take")
      ->group(kRun);
  AddDeviceOptions(*command, flags->device);
  AddJsonFlag(*command, flags->json);
  command->callback([flags, &run] { run = [flags] { return RunQuantize(*flags); }; });
}

}  // namespace nibble
