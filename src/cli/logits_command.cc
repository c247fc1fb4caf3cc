#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/progress.h"
#include "checkpoint/safetensors.h"
#include "cli/loaded_model.h"
#include "data/table.h"
#include "model/scoring.h"
#include "nibble/error.h"

namespace nibble {
namespace {

struct LogitsOptions {
  std::string model;
  std::string tokens;
  std::string out;
  std::string kv_cache_dtype = "auto";
  DeviceOptions device;
  bool json = false;
};

struct NamedSequence {
  std::string name;
  std::vector<int32_t> ids;
};

// [[1, 2], [1, 3]] names sequences by index, {"a": [1, 2]} by key.
std::vector<NamedSequence> ReadSequences(const Json& document, const std::string& file,
                                         const ModelConfig& config) {
  if (!document.is_structured() || document.empty()) {
    throw Error(ErrorCode::kInvalidData,
                file + ": expected a list of token id lists, or an object of them");
  }
  std::vector<NamedSequence> sequences;
  for (const auto& [name, list] : document.items()) {
    const std::string where = fmt::format("{}: sequence {}", file, name);
    if (!list.is_array() || list.empty()) {
      throw Error(ErrorCode::kInvalidData,
                  where + ": expected a list of token ids that is not empty");
    }
    NamedSequence sequence{name, {}};
    for (const Json& id : list) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
          id.get<int64_t>() >= config.vocab_size) {
        throw Error(ErrorCode::kInvalidData,
                    fmt::format("{}: expected token ids from 0 to {}, found {}", where,
                                config.vocab_size - 1, id.dump().substr(0, 40)));
      }
      sequence.ids.push_back(id.get<int32_t>());
    }
    if (static_cast<int64_t>(sequence.ids.size()) > config.max_positions) {
      throw Error(ErrorCode::kInvalidData,
                  fmt::format("{}: {} tokens, but the model takes {}", where, sequence.ids.size(),
                              config.max_positions));
    }
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

int RunLogits(const LogitsOptions& options) {
  const Json tokens = ReadJson(options.tokens);
  LoadedModel loaded(options.model, options.device, 512);
  const int64_t vocab = loaded.config().vocab_size;
  const std::vector<NamedSequence> sequences =
      ReadSequences(tokens, InputName(options.tokens), loaded.config());
  int64_t total = 0;
  for (const NamedSequence& sequence : sequences)
    total += static_cast<int64_t>(sequence.ids.size());
  Progress progress("logits", "tokens", total);
  std::vector<Tensor> tensors;
  std::vector<std::pair<std::string, TensorView>> views;
  for (const NamedSequence& sequence : sequences) {
    Tensor logits(DType::kF32, Shape({static_cast<int64_t>(sequence.ids.size()), vocab}));
    const std::span<float> values = logits.As<float>();
    const auto keep = [&](int64_t first, std::span<const float> rows) {
      std::copy(rows.begin(), rows.end(), values.begin() + first * vocab);
      progress.Add(static_cast<int64_t>(rows.size()) / vocab);
    };
    SequenceLogits(loaded.model(), sequence.ids, keep, KvCacheType(options.kv_cache_dtype));
    tensors.push_back(std::move(logits));
    views.emplace_back(sequence.name, tensors.back().view());
  }
  WriteSafetensors(options.out, views);
  if (options.json) {
    PrintJson({{"file", options.out},
               {"sequences", sequences.size()},
               {"tokens", total},
               {"vocab_size", vocab}});
  } else {
    Print("{}: logits of {} tokens in {} sequences\n", options.out, total, sequences.size());
  }
  return kExitSuccess;
}

}  // namespace

void AddLogitsCommand(CLI::App& app, RunCommand& run) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command =
      AddSubcommand(app, "logits", "Write the logits of token sequences, to compare engines",
                    "nibble logits demo/tinymix --tokens ids.json --out logits.safetensors");
  AddPath(*command, "model", options->model, "Checkpoint directory, dense or quantized")
      ->required();
  AddPath(*command, "--tokens", options->tokens,
          "JSON: a list of token id lists, or an object of them; -: standard input")
      ->required();
  AddPath(*command, "--out", options->out,
          "safetensors file: one float32 tensor [tokens, vocabulary] a sequence")
      ->required();
  AddKvCacheOption(*command, options->kv_cache_dtype);
  AddDeviceOptions(*command, options->device);
  AddActivationsOption(*command, options->device);
  AddJsonFlag(*command, options->json);
  command->callback([options, &run] { run = [options] { return RunLogits(*options); }; });
}

}  // namespace nibble
