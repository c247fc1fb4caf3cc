#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "base/progress.h"
#include "cli/loaded_model.h"
#include "data/table.h"
#include "model/scoring.h"
#include "nibble/error.h"

namespace nibble {
namespace {

struct PerplexityOptions {
  std::string model;
  std::string text;
  int64_t window = 0;
  int64_t stride = 0;
  std::string baseline;
  std::string kv_cache_dtype = "auto";
  DeviceOptions device;
  bool json = false;
};

constexpr int64_t kMaxBatchTokens = 2048;

int RunPerplexity(const PerplexityOptions& options) {
  const std::string text = ReadText(options.text);  // a wrong name shows before the model is loaded
  LoadedModel loaded(options.model, options.device, kMaxBatchTokens);
  const int64_t positions = loaded.config().max_positions;
  const int64_t window = options.window > 0 ? options.window : std::min<int64_t>(2048, positions);
  if (window > positions) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--window: expected at most the model's {} positions, found {}",
                            positions, window));
  }
  // The file as one string, without special tokens; each window gets a BOS of its own.
  const std::vector<int32_t> ids = loaded.Encode(text, false);
  const int32_t bos = static_cast<int32_t>(loaded.config().bos_token_id);
  WarnOfTwoBos(options.text, !ids.empty() && ids.front() == bos ? 1 : 0, 1);
  const std::vector<ScoredSequence> windows = MakeWindows(ids, bos, window, options.stride);
  int64_t total = 0;  // the last token of a window is predicted, not run
  for (const auto& sequence : windows) total += static_cast<int64_t>(sequence.tokens.size()) - 1;
  Progress progress("perplexity", "tokens", total);
  const auto advance = [&](int64_t tokens) { progress.Add(tokens); };

  Json document = {{"model", options.model},
                   {"text", options.text},
                   {"window", window},
                   {"stride", options.stride > 0 ? options.stride : window - 1}};
  if (options.baseline.empty()) {
    const Perplexity result = PerplexityOf(
        ScoreSequences(loaded.model(), windows, advance, KvCacheType(options.kv_cache_dtype)));
    document["perplexity"] = result.perplexity();
    document["perplexity_stderr"] = result.standard_error;
    document["nll"] = result.nll;
    document["tokens"] = result.tokens;
    if (!options.json) {
      Print("perplexity {:.4f} +/- {:.4f} over {} tokens (nll {:.2f})\n", result.perplexity(),
            result.standard_error, result.tokens, result.nll);
    }
  } else {
    LoadedModel baseline(options.baseline, options.device, kMaxBatchTokens);
    const Comparison c = CompareSequences(baseline.model(), loaded.model(), windows, advance,
                                          KvCacheType(options.kv_cache_dtype));
    const double count = static_cast<double>(c.tokens);
    const double perplexity = std::exp(c.nll / count);
    const double baseline_perplexity = std::exp(c.baseline_nll / count);
    const double ratio = std::exp(c.log_ratio);
    document.update({{"perplexity", perplexity},
                     {"nll", c.nll},
                     {"tokens", c.tokens},
                     {"baseline", options.baseline},
                     {"baseline_perplexity", baseline_perplexity},
                     {"baseline_nll", c.baseline_nll},
                     {"perplexity_ratio", ratio},
                     {"perplexity_ratio_stderr", ratio * c.log_ratio_standard_error},
                     {"kl_mean", c.mean_kl},
                     {"kl_mean_stderr", c.kl_standard_error},
                     {"kl_median", c.median_kl},
                     {"kl_99", c.kl_99},
                     {"kl_max", c.max_kl},
                     {"top1_agreement", c.top1_agreement},
                     {"top1_agreement_stderr", c.top1_standard_error}});
    if (!options.json) {
      TextTable table({"figure", "value", "standard error"});
      table.AddRow({"perplexity", fmt::format("{:.4f}", perplexity), "-"});
      table.AddRow({"baseline perplexity", fmt::format("{:.4f}", baseline_perplexity), "-"});
      table.AddRow({"perplexity ratio", fmt::format("{:.6f}", ratio),
                    fmt::format("{:.6f}", ratio * c.log_ratio_standard_error)});
      table.AddRow({"KL divergence, mean", fmt::format("{:.6f}", c.mean_kl),
                    fmt::format("{:.6f}", c.kl_standard_error)});
      table.AddRow({"KL divergence, median", fmt::format("{:.6f}", c.median_kl), "-"});
      table.AddRow({"KL divergence, 99 %", fmt::format("{:.6f}", c.kl_99), "-"});
      table.AddRow({"KL divergence, largest", fmt::format("{:.6f}", c.max_kl), "-"});
      table.AddRow({"same most probable token", fmt::format("{:.3f} %", 100 * c.top1_agreement),
                    fmt::format("{:.3f} %", 100 * c.top1_standard_error)});
      table.AddRow({"tokens", std::to_string(c.tokens), "-"});
      PrintText(table.ToString());
    }
  }
  if (options.json) PrintJson(document);
  return kExitSuccess;
}

}  // namespace

void AddPerplexityCommand(CLI::App& app, RunCommand& run) {
  auto options = std::make_shared<PerplexityOptions>();
  CLI::App* command =
      AddSubcommand(app, "perplexity", "Measure a model on a text, alone or against a baseline",
                    "nibble perplexity tinymix-w4a16 --text demo/evaluation.txt --window 256 "
                    "--baseline demo/tinymix");
  AddPath(*command, "model", options->model, "Checkpoint directory, dense or quantized")
      ->required();
  AddPath(*command, "--text", options->text,
          "UTF-8 text file, plain, .gz or .zst; -: standard input")
      ->required();
  constexpr Limits<int64_t> kTokens = {0, int64_t{1} << 30};
  AddNumber(*command, "--window", options->window,
            "Tokens a window, BOS included (0: the model's positions, at most 2048)", kTokens);
  AddNumber(*command, "--stride", options->stride, "New tokens a window (0: no overlap)", kTokens);
  AddPath(*command, "--baseline", options->baseline,
          "Model to compare with: adds KL divergence and top-1 agreement");
  AddKvCacheOption(*command, options->kv_cache_dtype);
  AddDeviceOptions(*command, options->device);
  AddActivationsOption(*command, options->device);
  AddJsonFlag(*command, options->json);
  command->callback([options, &run] { run = [options] { return RunPerplexity(*options); }; });
}

}  // namespace nibble
