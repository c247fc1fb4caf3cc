#include "cli/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "backend/make_backend.h"
#include "base/log.h"
#include "base/progress.h"
#include "nibble/error.h"

namespace nibble {

LoadedModel::LoadedModel(const std::string& directory, const DeviceOptions& device,
                         int64_t max_tokens)
    : directory_(directory) {
  const auto start = std::chrono::steady_clock::now();
  const Checkpoint checkpoint(directory);
  backend_ = MakeBackend(device.backend, device.backend_options());
  config_ = checkpoint.config();
  model_ = std::make_unique<Model>(checkpoint, *backend_, max_tokens);
  load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  LogInfo("model_loaded directory={} backend=\"{}\" weights={} packed={} seconds={:.2f}", directory,
          backend_->name(), FormatBytes(model_->weight_bytes()), model_->packed(), load_seconds_);
}

const Tokenizer& LoadedModel::tokenizer() {
  if (!tokenizer_) tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::Load(directory_));
  return *tokenizer_;
}

std::vector<int32_t> LoadedModel::Encode(const std::string& text, bool add_special_tokens) {
  std::vector<int32_t> ids = tokenizer().Encode(text, add_special_tokens);
  const auto beyond =
      std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id >= config().vocab_size; });
  if (beyond != ids.end()) {
    throw Error(
        ErrorCode::kInvalidData,
        fmt::format(
            "{}: the tokenizer gives id {}, but config.json says vocab_size {}; the tokenizer "
            "belongs to another model",
            directory_, *beyond, config().vocab_size));
  }
  return ids;
}

std::vector<int32_t> LoadedModel::EndIds() {
  std::vector<int32_t> ids;
  for (const int64_t id : config().eos_token_ids) ids.push_back(static_cast<int32_t>(id));
  const std::filesystem::path path = std::filesystem::path(directory_) / "generation_config.json";
  if (std::filesystem::exists(path)) {
    const Json generation = ReadJsonFile(path.string());
    if (generation.is_object() && generation.contains("eos_token_id")) {
      const Json& eos = generation["eos_token_id"];
      for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
        if (id.is_number_integer()) ids.push_back(id.get<int32_t>());
      }
    }
  }
  if (const std::optional<int32_t> id = tokenizer().eos_id()) ids.push_back(*id);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::erase_if(ids, [&](int32_t id) { return id < 0 || id >= config().vocab_size; });
  return ids;
}

}  // namespace nibble
