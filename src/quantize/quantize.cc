#include "nibble/quantize.h"

#include <fmt/format.h>

#include <optional>

#include "data/calibration.h"
#include "data/input.h"
#include "data/table.h"
#include "quantize/recipe_file.h"
#include "quantize/run.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {

CalibrationSet Load(const QuantizeOptions& options, const ModelConfig& config) {
  if (options.calibration.empty()) return {};
  const Tokenizer tokenizer = Tokenizer::Load(options.input);
  std::optional<ChatTemplate> chat_template;
  if (options.chat) chat_template.emplace(ChatTemplate::Load(options.input));
  return LoadCalibration({.path = options.calibration,
                          .samples = options.samples,
                          .seed = options.seed,
                          .shuffle = true,
                          .max_seq_len = options.max_seq_len,
                          .text_column = options.text_column,
                          .chat = options.chat},
                         tokenizer, chat_template ? &*chat_template : nullptr, config.vocab_size);
}

QuantizationRun Prepare(const QuantizeOptions& options) {
  return {options, [&](const ModelConfig& config) { return Load(options, config); }};
}

}  // namespace

RecipeOptions ReadRecipe(const std::filesystem::path& file) {
  return ParseRecipe(ReadText(file), InputName(file));
}

QuantizePlan PlanQuantization(const QuantizeOptions& options) { return Prepare(options).plan(); }

void RequireResources(const QuantizePlan& plan) {
  if (plan.lacking.empty()) return;
  throw Error(ErrorCode::kResourceExhausted, fmt::format("{}", fmt::join(plan.lacking, ". ")));
}

QuantizeReport Quantize(const QuantizeOptions& options) { return Prepare(options).Run(); }

}  // namespace nibble
