#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "cli/command.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace nibble {

// A checkpoint, its backend and its model, loaded for the commands that compute.
class LoadedModel {
 public:
  // `max_tokens` bounds a step.
  LoadedModel(const std::string& directory, const DeviceOptions& device, int64_t max_tokens);

  const std::string& directory() const { return directory_; }
  Model& model() { return *model_; }
  const ModelConfig& config() const { return config_; }
  double load_seconds() const { return load_seconds_; }

  // Loaded on first use: some commands work on token ids alone.
  const Tokenizer& tokenizer();

  // Encodes, and rejects ids outside the model's vocabulary.
  std::vector<int32_t> Encode(const std::string& text, bool add_special_tokens);

  // End-of-sequence ids: all that config.json, generation_config.json and the tokenizer name.
  std::vector<int32_t> EndIds();

 private:
  std::string directory_;
  double load_seconds_ = 0;
  std::unique_ptr<Backend> backend_;
  ModelConfig config_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace nibble
