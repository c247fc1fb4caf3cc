#include "quantize/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "backend/make_backend.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "base/system.h"
#include "base/utf8.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_writer.h"
#include "checkpoint/fingerprint.h"
#include "model/tensors.h"
#include "quantize/layer_quantizer.h"
#include "quantize/layer_work.h"
#include "quantize/memory_plan.h"
#include "quantize/nearest_names.h"
#include "quantize/output/output_plan.h"
#include "quantize/output/read_back.h"
#include "quantize/output/written_layer.h"
#include "quantize/passes/probe.h"
#include "quantize/phase_clock.h"
#include "quantize/recipe_file.h"
#include "quantize/report.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr char kReportName[] = "quantization_report.jsonl";
constexpr char kRecipeName[] = "recipe.yaml";
// A perplexity more than so many times the original's means damage, not quantization error.
constexpr double kMaxPerplexityRatio = 2;

// What to do about a run that was started with other algebra (both are of GptqAlgebra::signature).
std::string RemedyForAlgebra(const Json& theirs, const Json& ours) {
  const auto instruction_set = [](const Json& signature) {
    const std::string text = signature.is_string() ? signature.get<std::string>() : "";
    return text.substr(0, text.find(':'));
  };
  const std::string wanted = instruction_set(theirs);
  if (wanted == instruction_set(ours)) {
    return "the sums of GPTQ differ between them: resume with the same library";
  }
  return fmt::format(
      "the sums of GPTQ differ between them: set the environment variable "
      "NIBBLE_INSTRUCTION_SET={}, resume on a machine that has it",
      wanted);
}

Checkpoint OpenSource(const QuantizeOptions& options) {
  std::error_code ignored;
  if (fs::weakly_canonical(options.input, ignored) ==
      fs::weakly_canonical(options.output, ignored)) {
    throw Error(ErrorCode::kInvalidArgument,
                options.output.string() + ": input and output are the same directory");
  }
  Checkpoint source(options.input);
  if (source.quant_config()) {
    throw Error(ErrorCode::kUnsupported,
                options.input.string() +
                    ": is quantized already; quantize the original 16- or 32-bit checkpoint");
  }
  return source;
}

}  // namespace

struct QuantizationRun::State {
  explicit State(const QuantizeOptions& given)
      : options(given),
        recipe(MakeRecipe(given.recipe)),
        source(OpenSource(given)),
        config(source.config()),
        spec(SpecOf(config)),
        output(source, recipe),
        backend(MakeBackend(given.backend, {.threads = given.threads, .instruction_set = {}})) {}

  // Before the start, in order.
  void CheckOptions() const;
  void CheckPatterns();
  void PlanOutput();
  void Calibrate(CalibrationSet set);
  void PlanDisk();

  QuantizeReport Run();

  bool gptq() const { return recipe.method == Method::kGptq; }
  ExpertTokens expert_tokens() const;
  Json Job() const;
  std::string DescribeToken(int64_t token) const;
  HiddenStates MakeHiddenStates() const;

  // The phases of Run, in order.
  void Embed(CheckpointWriter& writer, ActivationStream& stream);
  void QuantizeLayer(int64_t layer, LayerQuantizer& quantizer, CheckpointWriter& writer,
                     LayerReport& report);
  QuantizedLayer Quantize(int64_t layer, LayerQuantizer& quantizer);
  void Advance(int64_t layer, const CheckpointWriter& writer);
  void WriteOuter(int64_t unit, CheckpointWriter& writer);
  void Publish(CheckpointWriter& writer);
  void Check(const CheckpointWriter& writer, QuantizeReport& report);
  void Finish(CheckpointWriter& writer, const Json& job, QuantizeReport& report);

  const QuantizeOptions options;
  const Recipe recipe;
  const Checkpoint source;
  const ModelConfig& config;
  const ModelSpec spec;
  const OutputPlan output;
  std::unique_ptr<Backend> backend;
  CalibrationSet calibration;
  TokenBatches batches;        // run through the quantized layers
  TokenBatches probe_batches;  // the first of them, run through the original layers too
  LayerWork work;
  LayerPlan layer_plan;
  QuantizePlan plan;
  PhaseClock clock;

  // Valid during Run().
  OuterWeights outer;
  std::unique_ptr<Workspace> workspace;
  std::unique_ptr<Probe> probe;
  HiddenStates hidden;  // inputs of the current layer
  std::unique_ptr<Progress> progress;
};

QuantizationRun::QuantizationRun(const QuantizeOptions& options,
                                 const CalibrationLoader& load_calibration)
    : state_(std::make_unique<State>(options)) {
  state_->CheckOptions();
  state_->CheckPatterns();
  state_->PlanOutput();
  state_->Calibrate(load_calibration(state_->config));
  state_->PlanDisk();
}

QuantizationRun::~QuantizationRun() = default;
const QuantizePlan& QuantizationRun::plan() const { return state_->plan; }
QuantizeReport QuantizationRun::Run() { return state_->Run(); }

void QuantizationRun::State::CheckOptions() const {
  if (!gptq() && (options.calibrate_all_experts || options.top_up_experts)) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "`calibrate_all_experts` and `top_up_experts` steer calibration, which `method` rtn "
        "does not do");
  }
}

// A pattern that matches no Linear is most often a name of another kind of model, or a slip.
void QuantizationRun::State::CheckPatterns() {
  std::vector<std::string> modules;
  for (const TensorSpec& tensor : TensorsOf(config)) {
    if (tensor.is_linear()) modules.push_back(tensor.module);
  }
  for (const ModulePattern& pattern : recipe.ignore) {
    const auto matches = [&](const std::string& module) { return pattern.Matches(module); };
    if (std::ranges::any_of(modules, matches)) continue;
    const std::string nearest =
        fmt::format("{}", fmt::join(NearestNames(pattern.text(), modules), ", "));
    if (options.strict) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("`ignore` {} matches no linear of the model; nearest: {}",
                              Quoted(pattern.text()), nearest));
    }
    LogWarning("pattern_without_match ignore={} nearest=\"{}\"", Quoted(pattern.text()), nearest);
    plan.unmatched_patterns.push_back(pattern.text());
  }
}

void QuantizationRun::State::PlanOutput() {
  // They are copied at the end: what cannot be read then is to be known now.
  for (const fs::path& file : CompanionFiles(options.input)) {
    const MappedFile readable(file);
  }
  WarnOfUntiedHead(source);
  for (const std::string& name : output.dropped()) {
    LogWarning("tensor_left_out name={}: not part of a Mixtral model", name);
  }
  const std::vector<ShardPlan> shards = PlanShards(output.units(), options.max_shard_bytes);
  plan.num_shards = static_cast<int64_t>(shards.size());
  for (const ShardPlan& shard : shards) plan.output_bytes += shard.size_bytes;
  fs::path existing = fs::absolute(options.output);
  while (!fs::exists(existing) && existing.has_parent_path()) existing = existing.parent_path();
  plan.free_disk_bytes = FreeDiskBytes(existing);
}

void QuantizationRun::State::Calibrate(CalibrationSet set) {
  if (set.sequences.empty() && gptq()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "`method` gptq needs calibration rows: give `calibration` FILE, or use `method` rtn");
  }
  calibration = std::move(set);
  const int64_t step_tokens = BatchTokens(config);
  const std::vector<std::vector<int32_t>> probe_tokens =
      FirstTokens(calibration.sequences, std::min(Probe::kMaxTokens, step_tokens));
  probe_batches = CutIntoBatches(probe_tokens, step_tokens);
  // Rounding to nearest needs no statistics: only the probe's tokens are run.
  batches = gptq() ? CutIntoBatches(calibration.sequences, step_tokens) : probe_batches;
  work = CountLayerWork(config, batches, options.calibrate_all_experts);

  int64_t largest_layer = 0;
  for (int64_t layer = 0; layer < spec.num_layers(); ++layer) {
    const size_t unit = static_cast<size_t>(OutputPlan::UnitOfLayer(layer));
    largest_layer = std::max(largest_layer, output.units()[unit].size_bytes());
  }
  const int64_t budget =
      options.memory_bytes > 0 ? options.memory_bytes : AvailableMemoryBytes() / 10 * 8;
  MemoryPlan memory = PlanMemory({.spec = spec,
                                  .recipe = recipe,
                                  .backend = *backend,
                                  .stored_dtype = output.stored_dtype(),
                                  .batches = batches,
                                  .probe_tokens = probe_batches.num_tokens,
                                  .expert_tokens = expert_tokens(),
                                  .written_bytes = largest_layer,
                                  .budget_bytes = budget});
  layer_plan = memory.layers;
  plan.memory = std::move(memory.items);
  plan.memory_bytes = memory.bytes;
  plan.budget_bytes = budget;
  plan.experts_at_once = layer_plan.experts_at_once;
  plan.activations_in_file = layer_plan.activations_in_file;
  plan.scratch_disk_bytes = memory.disk_bytes;
  if (!memory.lacking.empty()) plan.lacking.push_back(std::move(memory.lacking));
  plan.calibration_tokens = batches.num_tokens;
  plan.calibration_rows = calibration.num_rows;
  plan.calibration_rows_skipped = calibration.num_skipped;
  plan.calibration_columns = calibration.columns;
  plan.gflop_per_second = MeasureGflopPerSecond(backend->algebra());
  const double layers = static_cast<double>(spec.num_layers());
  const auto add_phase = [&](const char* name, double gflop) {
    if (gflop <= 0) return;
    plan.phases.push_back(
        {.name = name, .gflop = gflop, .bound_seconds = gflop / plan.gflop_per_second});
    plan.seconds += plan.phases.back().bound_seconds;
  };
  if (gptq()) {
    add_phase("calibrate", layers * work.calibrate());
    add_phase("solve", layers * work.solve);
  }
  add_phase("advance", (layers - 1) * work.advance());
}

void QuantizationRun::State::PlanDisk() {
  const int64_t needed = plan.output_bytes + plan.scratch_disk_bytes;
  if (options.resume || needed <= plan.free_disk_bytes) return;
  plan.lacking.push_back(fmt::format(
      "{}: needs {} on disk ({} of output{}), {} free; free some space or choose another disk",
      options.output.string(), FormatBytes(needed), FormatBytes(plan.output_bytes),
      plan.scratch_disk_bytes > 0 ? ", " + FormatBytes(plan.scratch_disk_bytes) + " of activations"
                                  : "",
      FormatBytes(plan.free_disk_bytes)));
}

ExpertTokens QuantizationRun::State::expert_tokens() const {
  if (options.calibrate_all_experts) return ExpertTokens::kAll;
  return options.top_up_experts ? ExpertTokens::kToppedUp : ExpertTokens::kRouted;
}

HiddenStates QuantizationRun::State::MakeHiddenStates() const {
  return layer_plan.activations_in_file
             ? HiddenStates::InFile(batches.num_tokens, spec.hidden_size, options.output)
             : HiddenStates::InMemory(batches.num_tokens, spec.hidden_size);
}

// The options and inputs that decide the bytes of the output.
Json QuantizationRun::State::Job() const {
  Json ignore = Json::array();
  for (const ModulePattern& pattern : recipe.ignore) ignore.push_back(pattern.text());
  Json job = {{"input", SampleDigest(source)},
              {"calibration", calibration.ids_sha256},
              {"method", Name(recipe.method)},
              {"bits", recipe.bits},
              {"group_size", recipe.group_size},
              {"symmetric", recipe.symmetric},
              {"act_order", Name(recipe.act_order)},
              {"observer", Name(recipe.observer)},
              {"dampening", recipe.dampening},
              {"block_size", recipe.block_size},
              {"dead_columns", recipe.dead_columns == DeadColumns::kKeep ? "keep" : "zero"},
              {"ignore", ignore},
              {"calibrate_all_experts", options.calibrate_all_experts},
              {"top_up_experts", options.top_up_experts},
              {"max_shard_bytes", options.max_shard_bytes},
              {"backend", options.backend}};
  // Rounding needs no sums.
  if (gptq()) job["algebra"] = backend->algebra().signature();
  return job;
}

std::string QuantizationRun::State::DescribeToken(int64_t token) const {
  for (size_t i = 0; i < calibration.sequences.size(); ++i) {
    const int64_t length = static_cast<int64_t>(calibration.sequences[i].size());
    if (token < length) {
      return fmt::format(
          "token {} of calibration row {}", token,
          i < calibration.rows.size() ? calibration.rows[i] : static_cast<int64_t>(i));
    }
    token -= length;
  }
  return fmt::format("calibration token {}", token);
}

QuantizeReport QuantizationRun::State::Run() {
  RequireResources(plan);
  const auto start = std::chrono::steady_clock::now();
  QuantizeReport report;
  report.plan = plan;
  report.calibration_ids_sha256 = calibration.ids_sha256;
  report.calibration_sequences = static_cast<int64_t>(calibration.sequences.size());
  report.calibration_tokens = calibration.num_tokens;
  report.tokens_cut = calibration.num_tokens_uncut - calibration.num_tokens;

  const Json job = Job();
  CheckpointWriter writer(
      {.directory = options.output,
       .max_shard_bytes = options.max_shard_bytes,
       .job = job,
       .remedies = {{"algebra",
                     [&](const Json& theirs) { return RemedyForAlgebra(theirs, job["algebra"]); }}},
       .resume = options.resume},
      output.units());
  if (writer.num_done() > 0) {
    LogInfo("resume done={} of={} units", writer.num_done(), writer.num_units());
  }
  LogInfo("plan memory={} budget={} experts_at_once={} activations={} disk={} at_least={}",
          FormatBytes(plan.memory_bytes), FormatBytes(plan.budget_bytes), plan.experts_at_once,
          plan.activations_in_file ? "file" : "memory", FormatBytes(plan.output_bytes),
          FormatSeconds(plan.seconds));
  const double layers = static_cast<double>(config.num_layers);
  const double total =
      gptq() ? layers * (work.calibrate() + work.solve + work.advance()) - work.advance() : layers;
  progress = std::make_unique<Progress>("quantize", gptq() ? "GFLOP" : "layers",
                                        std::max<int64_t>(1, static_cast<int64_t>(total)));

  workspace = std::make_unique<Workspace>(*backend, spec, std::max<int64_t>(1, batches.max_tokens),
                                          std::max<int64_t>(1, batches.num_blocks));
  ActivationStream stream(batches, *backend, *workspace);
  Embed(writer, stream);
  LayerQuantizer quantizer({.source = source,
                            .spec = spec,
                            .recipe = recipe,
                            .output = output,
                            .plan = layer_plan,
                            .expert_tokens = expert_tokens(),
                            .stream = stream,
                            .probe = *probe,
                            .clock = clock},
                           layer_plan.keeps_expert_input() ? MakeHiddenStates() : HiddenStates());

  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    progress->SetLabel(fmt::format("quantize layer {}/{}", layer + 1, config.num_layers));
    LayerReport& layer_report = report.layers.emplace_back();
    QuantizeLayer(layer, quantizer, writer, layer_report);
    Advance(layer, writer);
    const auto phase = clock.Measure("probe");
    layer_report.divergence = probe->Compare(hidden);
  }
  if (writer.num_done() < writer.num_units()) WriteOuter(writer.num_units() - 1, writer);
  progress.reset();
  Publish(writer);
  Check(writer, report);

  for (const LayerReport& layer : report.layers) {
    report.num_starved += static_cast<int64_t>(layer.starved_experts.size());
    for (const LinearReport& linear : layer.linears) report.num_fallbacks += linear.fell_back;
  }
  report.phases = clock.Reports(plan.gflop_per_second);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.cpu_seconds = CpuSeconds();
  report.peak_resident_bytes = PeakResidentBytes();
  Finish(writer, job, report);
  return report;
}

// The inputs of layer 0: for the probe by the original embedding, for the quantized stream by the
// written one.
void QuantizationRun::State::Embed(CheckpointWriter& writer, ActivationStream& stream) {
  const auto phase = clock.Measure("embed");
  if (writer.num_done() == 0) WriteOuter(0, writer);
  outer = LoadOuter(source, *backend);
  probe = std::make_unique<Probe>(spec, probe_batches, *backend, *workspace, outer);
  probe->Embed();
  hidden = MakeHiddenStates();
  const TensorSpec embedding = EmbeddingOf(config);
  if (FindDense(source, embedding).dtype() != output.dtype()) {
    outer.embedding.reset();
    const TensorView written = writer.Read(embedding.module + ".weight");
    outer.embedding = backend->Prepare(written, Role::kEmbedding);
    writer.DontNeed(written);
  }
  stream.Embed(*outer.embedding, hidden);
  outer.embedding.reset();
}

QuantizedLayer QuantizationRun::State::Quantize(int64_t layer, LayerQuantizer& quantizer) {
  try {
    return quantizer.Quantize(layer, hidden);
  } catch (const NonFiniteActivations& error) {
    throw error.WithContext(fmt::format("layer {}, {}", layer, DescribeToken(error.token())));
  }
}

void QuantizationRun::State::QuantizeLayer(int64_t layer, LayerQuantizer& quantizer,
                                           CheckpointWriter& writer, LayerReport& report) {
  const int64_t unit = OutputPlan::UnitOfLayer(layer);
  if (unit < writer.num_done()) {
    report = LayerReportFromJson(writer.note(unit).value("report", Json()),
                                 options.output.string() + ": resume ledger");
    report.resumed = true;
    quantizer.MoveProbe(layer);
  } else {
    const QuantizedLayer result = Quantize(layer, quantizer);
    report = result.report;
    const auto phase = clock.Measure("write");
    UnitTensors tensors(output);
    size_t linear = 0;
    for (const TensorSpec& tensor : LayerTensors(config, layer)) {
      const bool may_be_quantized = tensor.tap != Tap::kNone;
      if (may_be_quantized && result.linears[linear]) {
        tensors.AddQuantized(*result.linears[linear]);
      } else {
        tensors.AddKept(tensor.module + ".weight", FindDense(source, tensor));
      }
      linear += may_be_quantized;
    }
    writer.WriteUnit(tensors.views(), {{"sha256", tensors.Sha256()}, {"report", ToJson(report)}});
  }
  if (gptq()) progress->Add(static_cast<int64_t>(work.calibrate() + work.solve));
  for (const int64_t expert : report.starved_experts) {
    const int64_t tokens = report.expert_tokens[expert];
    Log(tokens == 0 ? LogLevel::kError : LogLevel::kWarning,
        fmt::format("starved_expert layer={} expert={} tokens={}", layer, expert, tokens));
  }
}

// Pass B: computes the inputs of the next layer with the layer as written. After the last layer
// only the probe's tokens matter.
void QuantizationRun::State::Advance(int64_t layer, const CheckpointWriter& writer) {
  if (batches.num_tokens == 0) {
    progress->Add(1);
    return;
  }
  const bool last = layer + 1 == config.num_layers;
  const TokenBatches& tokens = last ? probe_batches : batches;
  const double gflop = CountLayerWork(config, tokens, false).advance();
  const auto phase = clock.Measure("advance", gflop);
  const LayerWeights weights = LoadWrittenLayer(writer, output, config, recipe, layer, *backend);
  const DecoderLayer decoder(*backend);
  ActivationStream(tokens, *backend, *workspace).ForEach(hidden, &hidden, [&](const TokenBatch&) {
    decoder.Forward(spec.layer(layer), weights, 0, workspace->x, workspace->scratch);
  });
  progress->Add(gptq() ? static_cast<int64_t>(gflop) : 1);
}

// Unit 0 holds the embedding, the last one the final norm and the head.
void QuantizationRun::State::WriteOuter(int64_t unit, CheckpointWriter& writer) {
  UnitTensors tensors(output);
  const std::vector<TensorPlan>& plans = output.units()[unit].tensors;
  for (const TensorPlan& tensor : plans) tensors.AddKept(tensor.name, output.SourceOf(tensor));
  writer.WriteUnit(tensors.views(), {{"sha256", tensors.Sha256()}});
  for (const TensorPlan& tensor : plans) source.DontNeed(output.SourceOf(tensor));
}

void QuantizationRun::State::Publish(CheckpointWriter& writer) {
  const auto phase = clock.Measure("write");
  CopyCompanionFiles(options.input, options.output);
  writer.Publish({{kRecipeName, RecipeToYaml(recipe)}, {"config.json", output.ConfigJson()}});
}

void QuantizationRun::State::Check(const CheckpointWriter& writer, QuantizeReport& report) {
  const auto phase = clock.Measure("read back");
  std::vector<std::string> digests;
  for (int64_t unit = 0; unit < writer.num_units(); ++unit) {
    digests.push_back(writer.note(unit).value("sha256", ""));
  }
  report.original_perplexity = probe->Score(probe->original()).perplexity();
  report.quantized_perplexity = probe->Score(hidden).perplexity();
  outer = {};  // replaced by the written one
  report.read_back_perplexity =
      ReadBack(source, options.output, output, digests, probe_batches, hidden, *backend, *workspace)
          .perplexity();
  if (report.read_back_perplexity > kMaxPerplexityRatio * report.original_perplexity) {
    throw Error(ErrorCode::kInvalidData,
                fmt::format("{}: the quantized model has perplexity {:.4g} where the original has "
                            "{:.4g}; the files are left for inspection, do not use them",
                            options.output.string(), report.read_back_perplexity,
                            report.original_perplexity));
  }
}

void QuantizationRun::State::Finish(CheckpointWriter& writer, const Json& job,
                                    QuantizeReport& report) {
  int64_t total = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(options.output)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || name == kReportName || name.starts_with("nibble-resume"))
      continue;
    report.files.push_back({name, static_cast<int64_t>(entry.file_size()), ""});
    total += report.files.back().bytes;
  }
  Progress hashing("hash " + options.output.filename().string(), "B", total);
  for (WrittenFile& file : report.files) {
    file.sha256 =
        Sha256File(options.output / file.name, [&](int64_t bytes) { hashing.Add(bytes); });
  }
  std::sort(report.files.begin(), report.files.end(),
            [](const WrittenFile& a, const WrittenFile& b) { return a.name < b.name; });
  WriteTextFile(options.output / kReportName, ReportLines(report, job));
  writer.Complete();
}

}  // namespace nibble
