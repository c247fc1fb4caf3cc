// Writes a Mixtral checkpoint of any shape with random weights. `--help` explains.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint_writer.h"
#include "nibble/error.h"
#include "text/tokenizer.h"
#include "tools/synthetic_mixtral.h"

namespace nibble {
namespace {

const std::map<std::string, SyntheticShape> kPresets = {
    // 3.0 B parameters: decodes at the speed of its packed bytes on a desktop.
    {"3b", {.hidden = 2048, .intermediate = 7168, .layers = 8, .heads = 16, .kv_heads = 4}},
    // Two layers of Mixtral-8x22B, 5.4 B parameters.
    {"22b-layer", {.hidden = 6144, .intermediate = 16384, .layers = 2, .heads = 48, .kv_heads = 8}},
    // Small enough for a test, with sizes that differ from one another.
    {"tiny",
     {.hidden = 256,
      .intermediate = 384,
      .layers = 2,
      .heads = 4,
      .kv_heads = 2,
      .head_dim = 64,
      .experts = 4,
      .vocab = 4096}},
};

// Refuses a vocabulary that does not fit the model, before anything is written.
void CheckTokenizer(const std::filesystem::path& directory, int64_t vocab) {
  const int64_t tokens = Tokenizer::Load(directory).vocab_size();
  if (tokens > vocab) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--tokenizer {}: has {} tokens, the model {}; raise --vocab",
                            directory.string(), tokens, vocab));
  }
}

int Main(int argc, char** argv) {
  CLI::App app("Writes a Mixtral checkpoint with random weights, shard by shard.",
               "make_synthetic_mixtral");
  app.footer("Example:\n  make_synthetic_mixtral --preset 22b-layer --format bf16 /data/22b-layer");
  std::string preset = "3b";
  std::string format = "bf16";
  std::string tokenizer;
  std::filesystem::path directory;
  SyntheticOptions options;
  SyntheticShape shape;
  int threads = 0;
  app.add_option("directory", directory, "Where to write; absent or empty")->required();
  app.add_option("--preset", preset, "Shape to start from")
      ->check(CLI::IsMember({"3b", "22b-layer", "tiny"}))
      ->capture_default_str();
  app.add_option("--format", format, "Dense weights, or packed INT4")
      ->check(CLI::IsMember({"bf16", "w4a16"}))
      ->capture_default_str();
  const std::map<std::string, int64_t SyntheticShape::*> sizes = {
      {"--hidden", &SyntheticShape::hidden},     {"--intermediate", &SyntheticShape::intermediate},
      {"--layers", &SyntheticShape::layers},     {"--heads", &SyntheticShape::heads},
      {"--kv-heads", &SyntheticShape::kv_heads}, {"--head-dim", &SyntheticShape::head_dim},
      {"--experts", &SyntheticShape::experts},   {"--top-k", &SyntheticShape::experts_per_token},
      {"--vocab", &SyntheticShape::vocab}};
  for (const auto& [flag, field] : sizes) {
    app.add_option(flag, shape.*field, "Instead of the preset's");
  }
  app.add_option("--group-size", options.group_size, "Weights that share a scale")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Other seeds, other weights")->capture_default_str();
  app.add_option("--max-shard-size", options.max_shard_bytes, "In bytes")->capture_default_str();
  app.add_option("--tokenizer", tokenizer, "Copy the tokenizer files of this directory");
  app.add_option("--threads", threads, "0: all CPUs")->check(CLI::Range(0, 1024));
  CLI11_PARSE(app, argc, argv);

  options.shape = kPresets.at(preset);
  for (const auto& [flag, field] : sizes) {
    if (app.get_option(flag)->count() > 0) options.shape.*field = shape.*field;
  }
  options.packed = format == "w4a16";
  InstallInterruptHandler();
  try {
    if (!tokenizer.empty()) CheckTokenizer(tokenizer, options.shape.vocab);
    ThreadPool pool(threads > 0 ? threads : AvailableThreads());
    const auto start = std::chrono::steady_clock::now();
    const int64_t bytes = WriteSyntheticModel(options, directory, pool);
    if (!tokenizer.empty()) CopyCompanionFiles(tokenizer, directory);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    fmt::print("{}: {} in {} ({}/s)\n", directory.string(), FormatBytes(bytes),
               FormatSeconds(elapsed.count()),
               FormatBytes(static_cast<int64_t>(static_cast<double>(bytes) / elapsed.count())));
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "make_synthetic_mixtral: {}\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) { return nibble::Main(argc, argv); }
