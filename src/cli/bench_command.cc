#include <fmt/format.h>

#include <memory>

#include "base/progress.h"
#include "base/system.h"
#include "bench/gptq.h"
#include "bench/kernels.h"
#include "bench/steps.h"
#include "cli/command.h"

// Prints every figure beside the roofline measured in the same run on the same threads.
namespace nibble {
namespace {

struct BenchOptions {
  std::string model;
  std::string instruction_set;
  DeviceOptions device;
  int repeats = 9;
  int64_t tokens = 512;   // of a prompt
  int64_t context = 512;  // before decoding
  int64_t sequences = 1;  // that decode together
  std::string kv_cache_dtype = "auto";
  std::string filter;  // of kernels' names
  bool json = false;

  BackendOptions backend() const {
    BackendOptions result = device.backend_options();
    result.instruction_set = instruction_set;
    return result;
  }
};

Json MachineJson(const std::string& backend, const cpu::Roofline& roofline) {
  return {{"machine", CpuModelName()},
          {"backend", backend},
          {"roof",
           {{"read_bytes_per_second", roofline.read_bytes_per_second},
            {"float_flops_per_second", roofline.float_flops_per_second},
            {"byte_dot_ops_per_second", roofline.byte_dot_ops_per_second}}}};
}

void PrintMachine(const std::string& backend, const cpu::Roofline& roofline) {
  Print("{}; {}\nroof: read {:.1f} GB/s, float {:.0f} GFLOP/s, byte dot {:.0f} GOP/s\n\n",
        CpuModelName(), backend, roofline.read_bytes_per_second / 1e9,
        roofline.float_flops_per_second / 1e9, roofline.byte_dot_ops_per_second / 1e9);
}

int PrintKernels(const KernelReport& report, bool json) {
  if (json) {
    Json document = MachineJson(report.backend, report.roofline);
    document["kernels"] = Json::array();
    for (const KernelFigure& figure : report.figures) {
      document["kernels"].push_back({{"name", figure.name},
                                     {"unit", figure.unit},
                                     {"rate", figure.rate() / 1e9},
                                     {"roof", figure.roof / 1e9},
                                     {"share_of_roof", figure.share_of_roof()},
                                     {"seconds", figure.seconds}});
    }
    PrintJson(document);
    return kExitSuccess;
  }
  PrintMachine(report.backend, report.roofline);
  TextTable table({"kernel", "rate", "unit", "of roof", "ms"});
  for (const KernelFigure& figure : report.figures) {
    table.AddRow({figure.name, fmt::format("{:.1f}", figure.rate() / 1e9), figure.unit,
                  fmt::format("{:.0f}%", 100 * figure.share_of_roof()),
                  fmt::format("{:.3f}", figure.seconds * 1e3)});
  }
  PrintText(table.ToString());
  return kExitSuccess;
}

int BenchKernelsCommand(const BenchOptions& options) {
  const KernelReport report = BenchKernels(
      {.backend = options.backend(), .repeats = options.repeats, .filter = options.filter});
  if (report.figures.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "--filter: no kernel has \"" + options.filter +
                                                 "\" in its name; run without it to see all names");
  }
  return PrintKernels(report, options.json);
}

int BenchGptqCommand(const BenchOptions& options) {
  return PrintKernels(BenchGptq({.backend = options.backend(), .repeats = options.repeats}),
                      options.json);
}

int BenchStepsCommand(const BenchOptions& options, const StepShape& shape) {
  const StepReport report = BenchSteps({.directory = options.model,
                                        .backend = options.backend(),
                                        .shape = shape,
                                        .cache_type = KvCacheType(options.kv_cache_dtype),
                                        .repeats = options.repeats});
  if (options.json) {
    Json document = MachineJson(report.backend, report.roofline);
    document["sequences"] = shape.sequences;
    document["tokens"] = shape.tokens;
    document["context"] = shape.context;
    document["seconds"] = report.seconds;
    document["tokens_per_second"] = report.tokens_per_second();
    document["weight_bytes"] = report.work.weight_bytes;
    document["cache_bytes"] = report.work.cache_bytes;
    document["float_flops"] = report.work.float_flops;
    document["packed_ops"] = report.work.packed_ops;
    document["read_gb_per_second"] = report.read_bytes_per_second() / 1e9;
    document["bandwidth_share"] = report.bandwidth_share();
    document["roof_seconds"] = report.roof_seconds;
    document["share_of_roof"] = report.share_of_roof();
    PrintJson(document);
    return kExitSuccess;
  }
  PrintMachine(report.backend, report.roofline);
  TextTable table({"step", "tokens/s", "ms", "roof ms", "of roof", "read GB/s", "of bandwidth"});
  table.AddRow({shape.tokens > 1       ? fmt::format("prefill of {} tokens", shape.tokens)
                : shape.sequences == 1 ? fmt::format("decode after {} tokens", shape.context)
                                       : fmt::format("decode of {} sequences after {} tokens",
                                                     shape.sequences, shape.context),
                fmt::format("{:.2f}", report.tokens_per_second()),
                fmt::format("{:.3f}", report.seconds * 1e3),
                fmt::format("{:.3f}", report.roof_seconds * 1e3),
                fmt::format("{:.0f}%", 100 * report.share_of_roof()),
                fmt::format("{:.1f}", report.read_bytes_per_second() / 1e9),
                fmt::format("{:.0f}%", 100 * report.bandwidth_share())});
  PrintText(table.ToString());
  return kExitSuccess;
}

int BenchLoadCommand(const BenchOptions& options) {
  const LoadReport report = BenchLoad(
      {.directory = options.model, .backend = options.backend(), .repeats = options.repeats});
  if (options.json) {
    Json document = MachineJson(report.backend, report.roofline);
    document["packed"] = report.packed;
    document["bytes"] = report.weight_bytes;
    document["seconds"] = report.seconds;
    document["roof_seconds"] = report.roof_seconds;
    document["share_of_roof"] = report.share_of_roof();
    PrintJson(document);
    return kExitSuccess;
  }
  PrintMachine(report.backend, report.roofline);
  TextTable table({"load to the first token", "weights", "ms", "roof ms", "of roof"});
  table.AddRow({report.packed ? "packed weights" : "weights repacked",
                FormatBytes(report.weight_bytes), fmt::format("{:.3f}", report.seconds * 1e3),
                fmt::format("{:.3f}", report.roof_seconds * 1e3),
                fmt::format("{:.0f}%", 100 * report.share_of_roof())});
  Print("{}", table.ToString());
  return kExitSuccess;
}

void AddCommonOptions(CLI::App& command, BenchOptions& options) {
  AddThreadsOption(command, options.device.threads);
  AddActivationsOption(command, options.device);
  AddNumber(command, "--repeats", options.repeats, "Measurements; the median counts", {7, 1000});
  AddText(command, "--instruction-set", options.instruction_set,
          "amx, avx512, avxvnni, avx2 or portable; default: the best this machine has");
  AddJsonFlag(command, options.json);
}

}  // namespace

void AddBenchCommand(CLI::App& app, RunCommand& run) {
  CLI::App* bench = AddSubcommand(app, "bench", "Time kernels and steps beside the machine's roof",
                                  "nibble bench kernels --threads 2");
  bench->require_subcommand(1);

  auto options = std::make_shared<BenchOptions>();
  CLI::App* kernels = AddSubcommand(*bench, "kernels", "Every kernel of the cpu backend",
                                    "nibble bench kernels --instruction-set avx2 --json");
  AddText(*kernels, "--filter", options->filter,
          "Only kernels whose name has this part, such as \"decode attention\"");
  AddCommonOptions(*kernels, *options);
  kernels->callback([options, &run] { run = [options] { return BenchKernelsCommand(*options); }; });

  CLI::App* gptq = AddSubcommand(*bench, "gptq", "Statistics, factorisations and sweeps",
                                 "nibble bench gptq --threads 2 --json");
  AddCommonOptions(*gptq, *options);
  gptq->callback([options, &run] { run = [options] { return BenchGptqCommand(*options); }; });

  CLI::App* decode = AddSubcommand(*bench, "decode", "One token at a time of each sequence",
                                   "nibble bench decode mixtral-w4a16 --context 512");
  AddPath(*decode, "model", options->model, "Checkpoint directory")->required();
  AddNumber(*decode, "--context", options->context, "Tokens before the first one measured",
            {0, int64_t{1} << 30});
  AddNumber(*decode, "--sequences", options->sequences, "Sequences that decode together",
            {1, 1024});
  AddKvCacheOption(*decode, options->kv_cache_dtype);
  AddCommonOptions(*decode, *options);
  decode->callback([options, &run] {
    run = [options] {
      return BenchStepsCommand(
          *options, {.sequences = options->sequences, .tokens = 1, .context = options->context});
    };
  });

  CLI::App* prefill = AddSubcommand(*bench, "prefill", "One prompt in one step",
                                    "nibble bench prefill mixtral-w4a16 --tokens 512");
  AddPath(*prefill, "model", options->model, "Checkpoint directory")->required();
  AddNumber(*prefill, "--tokens", options->tokens, "Length of the prompt", {2, 65536});
  AddKvCacheOption(*prefill, options->kv_cache_dtype);
  AddCommonOptions(*prefill, *options);
  prefill->callback([options, &run] {
    run = [options] { return BenchStepsCommand(*options, {.tokens = options->tokens}); };
  });

  CLI::App* load = AddSubcommand(*bench, "load", "A model, from opening it to its first token",
                                 "nibble bench load mixtral-w4a16");
  AddPath(*load, "model", options->model, "Checkpoint directory")->required();
  AddCommonOptions(*load, *options);
  load->callback([options, &run] { run = [options] { return BenchLoadCommand(*options); }; });
}

}  // namespace nibble
