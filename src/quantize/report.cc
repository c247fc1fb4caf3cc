#include "quantize/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/progress.h"
#include "quantize/passes/probe.h"

namespace nibble {
namespace {

// A line of JSON, `fields` behind its event. A licence may be called anything: what is not UTF-8 in
// a file's name becomes U+FFFD, it does not end the run.
std::string Line(const char* event, const Json& fields) {
  Json line = {{"event", event}};
  for (const auto& [key, value] : fields.items()) line[key] = value;
  return line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json Counts(const std::vector<int64_t>& counts) {
  Json array = Json::array();
  for (const int64_t count : counts) array.push_back(count);
  return array;
}

std::vector<int64_t> CountsFromJson(const Json& json) {
  std::vector<int64_t> counts;
  for (const Json& count : json) counts.push_back(count.get<int64_t>());
  return counts;
}

Json ColumnsJson(const QuantizePlan& plan) {
  Json columns = Json::object();
  for (const auto& [name, rows] : plan.calibration_columns) columns[name] = rows;
  return columns;
}

// Everything about a layer but its Linears and its time.
Json LayerFields(const LayerReport& report) {
  return {{"layer", report.layer},
          {"kl", report.divergence.kl},
          {"top1_agreement", report.divergence.top1_agreement},
          {"activation_error", report.divergence.activation_error},
          {"positions", report.divergence.positions},
          {"expert_tokens", Counts(report.expert_tokens)},
          {"expert_extra_tokens", Counts(report.expert_extra_tokens)},
          {"starved_experts", Counts(report.starved_experts)}};
}

Json LinearFields(const LinearReport& report) {
  return {{"module", report.module},
          {"rows", report.rows},
          {"cols", report.cols},
          {"method", report.method},
          {"tokens", report.tokens},
          {"relative_error", report.relative_error},
          {"relative_error_rtn", report.relative_error_rtn},
          {"ratio_to_rtn", report.ratio_to_rtn()},
          {"weight_error", report.weight_error},
          {"loss", report.loss},
          {"dampening", report.dampening},
          {"retries", report.retries},
          {"dead_columns", report.dead_columns},
          {"fell_back", report.fell_back}};
}

LinearReport LinearReportFromJson(const Json& json) {
  LinearReport report;
  report.module = json.at("module").get<std::string>();
  report.rows = json.at("rows").get<int64_t>();
  report.cols = json.at("cols").get<int64_t>();
  report.method = json.at("method").get<std::string>();
  report.tokens = json.at("tokens").get<int64_t>();
  report.relative_error = json.at("relative_error").get<double>();
  report.relative_error_rtn = json.at("relative_error_rtn").get<double>();
  report.weight_error = json.at("weight_error").get<double>();
  report.loss = json.at("loss").get<double>();
  report.dampening = json.at("dampening").get<double>();
  report.retries = json.at("retries").get<int>();
  report.dead_columns = json.at("dead_columns").get<int64_t>();
  report.fell_back = json.at("fell_back").get<bool>();
  report.seconds = json.at("seconds").get<double>();
  return report;
}

Json ResultFields(const QuantizeReport& report) {
  return {{"calibration_sequences", report.calibration_sequences},
          {"calibration_tokens", report.calibration_tokens},
          {"calibration_tokens_cut", report.tokens_cut},
          {"calibration_ids_sha256", report.calibration_ids_sha256},
          {"calibration_columns", ColumnsJson(report.plan)},
          {"calibration_rows", report.plan.calibration_rows},
          {"calibration_rows_skipped", report.plan.calibration_rows_skipped},
          {"original_perplexity", report.original_perplexity},
          {"quantized_perplexity", report.quantized_perplexity},
          {"read_back_perplexity", report.read_back_perplexity},
          {"fallbacks", report.num_fallbacks},
          {"starved_experts", report.num_starved},
          {"clean", report.clean()}};
}

Json TimeFields(const QuantizeReport& report) {
  return {{"seconds", report.seconds},
          {"cpu_seconds", report.cpu_seconds},
          {"gflop_per_second", report.plan.gflop_per_second},
          {"peak_resident_bytes", report.peak_resident_bytes}};
}

Json FileFields(const WrittenFile& file) {
  return {{"name", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}};
}

// "256 rows of text, 10 of instruction+output; 3 of 400 rows had no text".
std::string CalibrationRows(const QuantizePlan& plan) {
  std::string text;
  for (const auto& [name, rows] : plan.calibration_columns) {
    text += text.empty() ? fmt::format("{} rows of {}", rows, name)
                         : fmt::format(", {} of {}", rows, name);
  }
  if (plan.calibration_rows_skipped > 0) {
    text += fmt::format("; {} of {} rows had no text", plan.calibration_rows_skipped,
                        plan.calibration_rows);
  }
  return text;
}

std::string PhaseRows(const std::vector<PhaseReport>& phases) {
  std::string text;
  for (const PhaseReport& phase : phases) {
    text += fmt::format("  {:<14} {:>8.2f} s  {:>8.2f} CPU s", phase.name, phase.seconds,
                        phase.cpu_seconds);
    if (phase.gflop > 0) {
      text += fmt::format("  {:>9.1f} GFLOP  bound {:>8.2f} s", phase.gflop, phase.bound_seconds);
      if (phase.seconds > 0)
        text += fmt::format("  {:>4.0f} %", 100 * phase.bound_seconds / phase.seconds);
    }
    text += "\n";
  }
  return text;
}

}  // namespace

bool QuantizeReport::clean() const { return num_fallbacks == 0; }

Json ToJson(const LinearReport& report) {
  Json json = LinearFields(report);
  json["seconds"] = report.seconds;
  return json;
}

Json ToJson(const LayerReport& report) {
  Json json = LayerFields(report);
  json["linears"] = Json::array();
  for (const LinearReport& linear : report.linears) json["linears"].push_back(ToJson(linear));
  json["seconds"] = report.seconds;
  return json;
}

Json ToJson(const PhaseReport& report) {
  return {{"name", report.name},
          {"seconds", report.seconds},
          {"cpu_seconds", report.cpu_seconds},
          {"gflop", report.gflop},
          {"bound_seconds", report.bound_seconds}};
}

Json ToJson(const QuantizePlan& plan) {
  Json memory = Json::object();
  for (const QuantizePlan::Item& item : plan.memory) memory[item.name] = item.bytes;
  Json phases = Json::array();
  for (const PhaseReport& phase : plan.phases) phases.push_back(ToJson(phase));
  return {{"memory", memory},
          {"memory_bytes", plan.memory_bytes},
          {"budget_bytes", plan.budget_bytes},
          {"experts_at_once", plan.experts_at_once},
          {"activations_in_file", plan.activations_in_file},
          {"output_bytes", plan.output_bytes},
          {"scratch_disk_bytes", plan.scratch_disk_bytes},
          {"free_disk_bytes", plan.free_disk_bytes},
          {"shards", plan.num_shards},
          {"calibration_tokens", plan.calibration_tokens},
          {"calibration_columns", ColumnsJson(plan)},
          {"calibration_rows", plan.calibration_rows},
          {"calibration_rows_skipped", plan.calibration_rows_skipped},
          {"unmatched_patterns", plan.unmatched_patterns},
          {"gflop_per_second", plan.gflop_per_second},
          {"phases", phases},
          {"seconds", plan.seconds},
          {"lacking", plan.lacking}};
}

Json ToJson(const QuantizeReport& report) {
  Json json = ResultFields(report);
  const Json times = TimeFields(report);
  for (const auto& [key, value] : times.items()) json[key] = value;
  json["layers"] = Json::array();
  for (const LayerReport& layer : report.layers) json["layers"].push_back(ToJson(layer));
  json["phases"] = Json::array();
  for (const PhaseReport& phase : report.phases) json["phases"].push_back(ToJson(phase));
  json["files"] = Json::array();
  for (const WrittenFile& file : report.files) json["files"].push_back(FileFields(file));
  json["plan"] = ToJson(report.plan);
  return json;
}

LayerReport LayerReportFromJson(const Json& json, const std::string& where) {
  try {
    LayerReport report;
    report.layer = json.at("layer").get<int64_t>();
    for (const Json& linear : json.at("linears")) {
      report.linears.push_back(LinearReportFromJson(linear));
    }
    report.expert_tokens = CountsFromJson(json.at("expert_tokens"));
    report.expert_extra_tokens = CountsFromJson(json.at("expert_extra_tokens"));
    report.starved_experts = CountsFromJson(json.at("starved_experts"));
    report.seconds = json.at("seconds").get<double>();
    return report;
  } catch (const Json::exception& error) {
    throw Error(
        ErrorCode::kInvalidData,
        fmt::format("{}: not a layer's note of this version of nibble: {}", where, error.what()));
  }
}

std::string ReportLines(const QuantizeReport& report, const Json& job) {
  std::string lines = Line("run", job);
  for (const LayerReport& layer : report.layers) {
    for (const LinearReport& linear : layer.linears) lines += Line("linear", LinearFields(linear));
    lines += Line("layer", LayerFields(layer));
  }
  for (const WrittenFile& file : report.files) lines += Line("file", FileFields(file));
  lines += Line("result", ResultFields(report));
  for (const LayerReport& layer : report.layers) {
    lines += Line("layer_time",
                  {{"layer", layer.layer}, {"seconds", layer.seconds}, {"resumed", layer.resumed}});
  }
  for (const PhaseReport& phase : report.phases) lines += Line("phase", ToJson(phase));
  lines += Line("plan", ToJson(report.plan));
  lines += Line("time", TimeFields(report));
  return lines;
}

std::string ReportTable(const QuantizeReport& report) {
  std::string text =
      "layer        KL   top-1   rel. error   / rtn   worst / rtn   tokens per expert      time\n";
  std::vector<const LinearReport*> measured;
  for (const LayerReport& layer : report.layers) {
    double error = 0, rounding = 0, worst = 0;
    for (const LinearReport& linear : layer.linears) {
      if (!(linear.relative_error_rtn > 0)) continue;
      measured.push_back(&linear);
      error += linear.relative_error;
      rounding += linear.relative_error_rtn;
      worst = std::max(worst, linear.ratio_to_rtn());
    }
    const double count = std::max<double>(1, static_cast<double>(layer.linears.size()));
    std::string tokens = "-";
    if (!layer.expert_tokens.empty()) {
      const auto [least, most] =
          std::minmax_element(layer.expert_tokens.begin(), layer.expert_tokens.end());
      tokens = fmt::format("{} to {}", *least, *most);
    }
    const bool compared = layer.divergence.positions > 0;
    text +=
        fmt::format("{:>5}  {:>8}  {:>6}  {:>11}  {:>6}  {:>12}  {:>18}  {:>8}\n", layer.layer,
                    compared ? fmt::format("{:.5f}", layer.divergence.kl) : "-",
                    compared ? fmt::format("{:.1f} %", 100 * layer.divergence.top1_agreement) : "-",
                    rounding > 0 ? fmt::format("{:.5f}", error / count) : "-",
                    rounding > 0 ? fmt::format("{:.3f}", error / rounding) : "-",
                    rounding > 0 ? fmt::format("{:.3f}", worst) : "-", tokens,
                    layer.resumed ? "resumed" : FormatSeconds(layer.seconds));
  }

  std::sort(measured.begin(), measured.end(), [](const auto* a, const auto* b) {
    const double ratio_a = a->ratio_to_rtn();
    const double ratio_b = b->ratio_to_rtn();
    return ratio_a != ratio_b ? ratio_a > ratio_b : a->module < b->module;
  });
  if (!measured.empty()) text += "\nleast gained over rounding to nearest:\n";
  for (size_t i = 0; i < std::min<size_t>(3, measured.size()); ++i) {
    text += fmt::format("  {:<52} {:.3f} of its error, {:.5f} of its output, {} tokens\n",
                        measured[i]->module, measured[i]->ratio_to_rtn(),
                        measured[i]->relative_error, measured[i]->tokens);
  }

  std::string worries;
  for (const LayerReport& layer : report.layers) {
    for (const int64_t expert : layer.starved_experts) {
      const size_t e = static_cast<size_t>(expert);
      const int64_t extra = layer.expert_extra_tokens[e];
      worries += fmt::format("  {}: layer {} expert {} was routed {} tokens{}\n",
                             layer.expert_tokens[e] == 0 ? "error" : "starved", layer.layer, expert,
                             layer.expert_tokens[e],
                             extra > 0 ? fmt::format(", shown {} more", extra) : "");
    }
    for (const LinearReport& linear : layer.linears) {
      if (linear.fell_back) {
        worries +=
            fmt::format("  fallback: {} rounded to nearest ({})\n", linear.module,
                        linear.tokens == 0 ? "no tokens" : "its Hessian could not be factored");
      } else if (linear.retries > 0) {
        worries += fmt::format("  damped: {} needed {} instead of the recipe's\n", linear.module,
                               linear.dampening);
      }
    }
  }
  if (!worries.empty()) text += fmt::format("\nworth knowing:\n{}", worries);

  text += '\n';
  text += PhaseRows(report.phases);
  text += fmt::format(
      "  {:<14} {:>8.2f} s  {:>8.2f} CPU s  at {:.0f} GFLOP/s measured, peak memory {}\n", "all",
      report.seconds, report.cpu_seconds, report.plan.gflop_per_second,
      FormatBytes(report.peak_resident_bytes));
  if (!report.plan.calibration_columns.empty()) {
    text += fmt::format("\ncalibrated with {}\n", CalibrationRows(report.plan));
  }
  if (report.original_perplexity > 0) {
    text += fmt::format(
        "\nperplexity of {} calibration tokens: {:.4f} originally, {:.4f} as written ({:+.2f} %)\n",
        std::min(Probe::kMaxTokens, report.calibration_tokens), report.original_perplexity,
        report.read_back_perplexity,
        100 * (report.read_back_perplexity / report.original_perplexity - 1));
  } else {
    text += "\nperplexity: not compared, there are no calibration rows\n";
  }
  int64_t linears = 0;
  for (const LayerReport& layer : report.layers)
    linears += static_cast<int64_t>(layer.linears.size());
  text += fmt::format("{} linears written, read back and equal; {} starved experts; {} fallbacks\n",
                      linears, report.num_starved, report.num_fallbacks);
  return text;
}

std::string PlanTable(const QuantizePlan& plan) {
  std::string text = "memory\n";
  for (const QuantizePlan::Item& item : plan.memory) {
    text += fmt::format("  {:<36} {:>12}\n", item.name, FormatBytes(item.bytes));
  }
  text += fmt::format("  {:<36} {:>12}  of a budget of {}\n", "in all",
                      FormatBytes(plan.memory_bytes), FormatBytes(plan.budget_bytes));
  text += fmt::format("disk\n  {:<36} {:>12}  in {} {}\n", "output", FormatBytes(plan.output_bytes),
                      plan.num_shards, plan.num_shards == 1 ? "file" : "files");
  if (plan.scratch_disk_bytes > 0) {
    text += fmt::format("  {:<36} {:>12}\n", "activations, while it runs",
                        FormatBytes(plan.scratch_disk_bytes));
  }
  text += fmt::format("  {:<36} {:>12}\n", "free", FormatBytes(plan.free_disk_bytes));
  if (!plan.calibration_columns.empty()) {
    text += fmt::format("calibration\n  {}\n", CalibrationRows(plan));
  }
  text += fmt::format("time, {} calibration tokens at {:.0f} GFLOP/s\n", plan.calibration_tokens,
                      plan.gflop_per_second);
  for (const PhaseReport& phase : plan.phases) {
    text += fmt::format("  {:<36} {:>12}  {:.1f} GFLOP\n", phase.name,
                        FormatSeconds(phase.bound_seconds), phase.gflop);
  }
  text += fmt::format("  {:<36} {:>12}\n", "in all, at least", FormatSeconds(plan.seconds));
  return text;
}

}  // namespace nibble
