#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/make_backend.h"
#include "checkpoint/checkpoint.h"
#include "cli/command.h"
#include "model/packed_weights.h"
#include "model/validate.h"
#include "nibble/error.h"

namespace nibble {
namespace {

struct VerifyOptions {
  std::string directory;
  int64_t tensor_parallel_size = 1;
  bool json = false;
};

// The packed weights beside the checkpoint, every byte, if there are any.
std::optional<Finding> VerifyPacked(const Checkpoint& checkpoint) {
  const std::filesystem::path file = checkpoint.directory() / PackedWeights::kFileName;
  if (!std::filesystem::exists(file)) return std::nullopt;
  Finding finding{.passed = false, .rule = PackedWeights::kFileName, .detail = {}};
  try {
    const auto backend = MakeBackend("cpu");
    const PackedWeights packed(file, checkpoint, *backend);
    const std::optional<std::string> difference = packed.FindDifference();
    finding.passed = !difference;
    finding.detail = difference ? *difference + " differs; write it again with nibble pack --force"
                                : "equal to the weights, every byte";
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidData && error.code() != ErrorCode::kUnsupported) throw;
    finding.detail = std::string(error.what()) + "; write it again with nibble pack --force";
  }
  return finding;
}

int RunVerify(const VerifyOptions& options) {
  const Checkpoint checkpoint(options.directory);
  const ValidationReport report = ValidateForVllm(checkpoint, options.tensor_parallel_size);
  const std::optional<Finding> packed = VerifyPacked(checkpoint);
  const bool passed = report.passed() && (!packed || packed->passed);
  std::vector<Finding> all = report.findings;
  if (packed) all.push_back(*packed);
  if (options.json) {
    Json findings = Json::array();
    for (const Finding& finding : all) {
      findings.push_back(
          {{"passed", finding.passed}, {"rule", finding.rule}, {"detail", finding.detail}});
    }
    PrintJson({{"directory", options.directory},
               {"tensor_parallel_size", options.tensor_parallel_size},
               {"quantized", checkpoint.quant_config().has_value()},
               {"passed", passed},
               {"findings", findings}});
  } else {
    TextTable table({"", "rule", "found"});
    for (const Finding& finding : all) {
      table.AddRow({finding.passed ? "ok" : "FAIL", finding.rule, finding.detail});
    }
    fmt::print("{}{}: vLLM {} load {} on {} rank{}\n", table.ToString(),
               report.passed() ? "ok" : "FAIL", report.passed() ? "should" : "would not",
               options.directory, options.tensor_parallel_size,
               options.tensor_parallel_size == 1 ? "" : "s");
  }
  return passed ? kExitSuccess : kExitFindings;
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
