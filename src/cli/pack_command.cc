#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>

#include "backend/make_backend.h"
#include "base/progress.h"
#include "cli/command.h"
#include "model/packed_weights.h"
#include "nibble/error.h"

namespace nibble {
namespace {

struct PackOptions {
  std::string model;
  std::string out;
  bool force = false;
  bool json = false;
  int threads = 0;
};

void CheckOut(const std::filesystem::path& file, const Checkpoint& checkpoint, bool force) {
  if (!std::filesystem::exists(file)) return;
  for (const MappedFile& shard : checkpoint.shards()) {
    if (std::filesystem::equivalent(file, shard.path())) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--out {}: that is the checkpoint itself; choose another name",
                              file.string()));
    }
  }
  if (!force) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: exists; give --force to replace it", file.string()));
  }
}

int RunPack(const PackOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const Checkpoint checkpoint(options.model);
  const std::filesystem::path file = options.out.empty()
                                         ? checkpoint.directory() / PackedWeights::kFileName
                                         : std::filesystem::path(options.out);
  CheckOut(file, checkpoint, options.force);
  const auto backend = MakeBackend("cpu", {.threads = options.threads, .instruction_set = {}});
  const int64_t bytes = WritePackedWeights(checkpoint, *backend, file);
  // Reads the file back and checks its header, offsets and source.
  const PackedWeights written(file, checkpoint, *backend);

  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (options.json) {
    PrintJson({{"file", file.string()},
               {"bytes", bytes},
               {"layout", backend->weight_layout()->name()},
               {"seconds", seconds}});
  } else {
    Print("{}: {} in {}\n", file.string(), FormatBytes(bytes), FormatSeconds(seconds));
  }
  return kExitSuccess;
}

}  // namespace

void AddPackCommand(CLI::App& app, RunCommand& run) {
  auto options = std::make_shared<PackOptions>();
  CLI::App* command = AddSubcommand(
      app, "pack", "Keep a model's weights as the CPU kernels read them, so that it loads at once",
      "nibble pack mixtral-w4a16");
  AddPath(*command, "model", options->model, "Checkpoint directory, dense or quantized")
      ->required();
  AddPath(*command, "--out", options->out,
          fmt::format("File to write; it is used if it lies in the checkpoint "
                      "directory as {}, the default",
                      PackedWeights::kFileName));
  command->add_flag("--force", options->force, "Replace the file if it exists");
  AddThreadsOption(*command, options->threads);
  AddJsonFlag(*command, options->json);
  command->callback([options, &run] { run = [options] { return RunPack(*options); }; });
}

}  // namespace nibble
