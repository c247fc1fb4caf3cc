#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "checkpoint/checkpoint.h"
#include "cli/command.h"
#include "model/validate.h"

namespace nibble {
namespace {

struct VerifyOptions {
  std::string directory;
  int64_t tensor_parallel_size = 1;
  bool json = false;
};

int RunVerify(const VerifyOptions& options) {
  const Checkpoint checkpoint(options.directory);
  const ValidationReport report = ValidateForVllm(checkpoint, options.tensor_parallel_size);
  if (options.json) {
    Json findings = Json::array();
    for (const Finding& finding : report.findings) {
      findings.push_back(
          {{"passed", finding.passed}, {"rule", finding.rule}, {"detail", finding.detail}});
    }
    PrintJson({{"directory", options.directory},
               {"tensor_parallel_size", options.tensor_parallel_size},
               {"quantized", checkpoint.quant_config().has_value()},
               {"passed", report.passed()},
               {"findings", findings}});
  } else {
    TextTable table({"", "rule", "found"});
    for (const Finding& finding : report.findings) {
      table.AddRow({finding.passed ? "ok" : "FAIL", finding.rule, finding.detail});
    }
    fmt::print("{}{}: vLLM {} load {} on {} rank{}\n", table.ToString(),
               report.passed() ? "ok" : "FAIL", report.passed() ? "should" : "would not",
               options.directory, options.tensor_parallel_size,
               options.tensor_parallel_size == 1 ? "" : "s");
  }
  return report.passed() ? kExitSuccess : kExitFindings;
}

}  // namespace

void AddVerifyCommand(CLI::App& app, RunCommand& run) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* command =
      AddSubcommand(app, "verify", "Say whether vLLM will load a checkpoint, rule by rule",
                    "nibble verify mixtral-w4a16 --tensor-parallel-size 4");
  command->add_option("model", options->directory, "Checkpoint directory")->required();
  command
      ->add_option("--tensor-parallel-size", options->tensor_parallel_size,
                   "Ranks the model is to be split over")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  AddJsonFlag(*command, options->json);
  command->callback([options, &run] { run = [options] { return RunVerify(*options); }; });
}

}  // namespace nibble
