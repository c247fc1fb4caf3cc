#include <fmt/format.h>

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

// Compares every byte of the packed weights beside the checkpoint, if there are any.
std::optional<Finding> VerifyPacked(const Checkpoint& checkpoint) {
  const std::filesystem::path file = checkpoint.directory() / PackedWeights::kFileName;
  if (!std::filesystem::exists(file)) return std::nullopt;
  Finding finding{.grade = Grade::kFails, .rule = PackedWeights::kFileName, .detail = {}};
  try {
    const auto backend = MakeBackend("cpu");
    const PackedWeights packed(file, checkpoint, *backend);
    const std::optional<std::string> difference = packed.FindDifference();
    if (!difference) finding.grade = Grade::kOk;
    finding.detail = difference ? *difference + " differs; write it again with nibble pack --force"
                                : "equal to the weights, every byte";
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidData && error.code() != ErrorCode::kUnsupported) throw;
    finding.detail = std::string(error.what()) + "; write it again with nibble pack --force";
  }
  return finding;
}

const char* Shown(Grade grade) {
  switch (grade) {
    case Grade::kOk:
    case Grade::kUnusual:
      return Name(grade);
    case Grade::kDiffers:
      return "DIFFERS";
    case Grade::kFails:
      return "FAIL";
  }
  return "?";
}

// The last line: "vLLM … DIRECTORY on 2 ranks".
std::string Verdict(Grade grade, const VerifyOptions& options) {
  const std::string what =
      fmt::format("{} on {} rank{}", options.directory, options.tensor_parallel_size,
                  options.tensor_parallel_size == 1 ? "" : "s");
  switch (grade) {
    case Grade::kOk:
    case Grade::kUnusual:
      return fmt::format("ok: vLLM should load {}", what);
    case Grade::kDiffers:
      return fmt::format("DIFFERS: vLLM should load {}, but it is not what its configuration says",
                         what);
    case Grade::kFails:
      return fmt::format("FAIL: vLLM would not load {}", what);
  }
  return "?";
}

int RunVerify(const VerifyOptions& options) {
  const Checkpoint checkpoint(options.directory);
  ValidationReport report = ValidateForVllm(checkpoint, options.tensor_parallel_size);
  const Grade for_vllm = report.verdict();
  if (std::optional<Finding> packed = VerifyPacked(checkpoint)) {
    report.findings.push_back(std::move(*packed));
  }
  if (options.json) {
    Json findings = Json::array();
    for (const Finding& finding : report.findings) {
      findings.push_back({{"grade", Name(finding.grade)},
                          {"passed", finding.passed()},
                          {"rule", finding.rule},
                          {"detail", finding.detail}});
    }
    PrintJson({{"directory", options.directory},
               {"tensor_parallel_size", options.tensor_parallel_size},
               {"quantized", checkpoint.quant_config().has_value()},
               {"verdict", Name(report.verdict())},
               {"passed", report.passed()},
               {"findings", findings}});
  } else {
    TextTable table({"", "rule", "found"});
    for (const Finding& finding : report.findings) {
      table.AddRow({Shown(finding.grade), finding.rule, finding.detail});
    }
    Print("{}{}\n", table.ToString(), Verdict(for_vllm, options));
  }
  return report.passed() ? kExitSuccess : kExitFindings;
}

}  // namespace

void AddVerifyCommand(CLI::App& app, RunCommand& run) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* command =
      AddSubcommand(app, "verify", "Say whether vLLM will load a checkpoint, rule by rule",
                    "nibble verify mixtral-w4a16 --tensor-parallel-size 4");
  AddPath(*command, "model", options->directory, "Checkpoint directory")->required();
  AddNumber(*command, "--tensor-parallel-size", options->tensor_parallel_size,
            "Ranks the model is to be split over", {1, 1024});
  AddJsonFlag(*command, options->json);
  command->callback([options, &run] { run = [options] { return RunVerify(*options); }; });
}

}  // namespace nibble
