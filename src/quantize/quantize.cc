#include "nibble/quantize.h"

#include <fmt/format.h>

#include <optional>

#include "base/file.h"
#include "checkpoint/model_config.h"
#include "data/calibration.h"
#include "quantize/recipe_file.h"
#include "quantize/run.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {

CalibrationSet Load(const QuantizeOptions& options) {
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
                         tokenizer, chat_template ? &*chat_template : nullptr,
                         ReadModelConfig(options.input).vocab_size);
}

}  // namespace

RecipeOptions ReadRecipe(const std::filesystem::path& file) {
  return ParseRecipe(ReadTextFile(file), file.string());
}

QuantizePlan PlanQuantization(const QuantizeOptions& options) {
  return QuantizationRun(options, Load(options)).plan();
}

void RequireResources(const QuantizePlan& plan) {
  if (plan.lacking.empty()) return;
  throw Error(ErrorCode::kResourceExhausted, fmt::format("{}", fmt::join(plan.lacking, ". ")));
}

QuantizeReport Quantize(const QuantizeOptions& options) {
  return QuantizationRun(options, Load(options)).Run();
}

}  // namespace nibble
