#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "tensor/tensor.h"

namespace nibble {

// One tensor of the checkpoint to be written.
struct TensorPlan {
  std::string name;
  DType dtype = DType::kBF16;
  Shape shape;

  int64_t size_bytes() const { return shape.num_elements() * DTypeSize(dtype); }
};

// The tensors written in one transaction: a decoder layer, or tensors outside the layers.
struct UnitPlan {
  std::string name;  // unique
  std::vector<TensorPlan> tensors;

  int64_t size_bytes() const;
};

// The layout of the output: a pure function of the units and the shard size. Units fill shards
// greedily in order and are never split; a unit larger than the limit has a shard to itself. Inside
// a shard tensors are sorted by descending alignment, then name.
struct ShardPlan {
  std::string file;  // "model.safetensors", or "model-00002-of-00015.safetensors"
  int64_t first_unit = 0;
  int64_t last_unit = 0;  // one past
  std::string header;     // the first bytes of the file: length, JSON, padding
  int64_t size_bytes = 0;
};
std::vector<ShardPlan> PlanShards(const std::vector<UnitPlan>& units, int64_t max_shard_bytes);

struct CheckpointWriterOptions {
  std::filesystem::path directory;
  int64_t max_shard_bytes = 5'000'000'000;
  // Everything that decides the output's content. A run is resumed only if this is equal, member by
  // member; the error names the first that differs.
  Json job = Json::object();
  // By member of the job: what to do if the one a run was started with is `theirs` (null if it had
  // none), where that is not "resume with the same options".
  std::map<std::string, std::function<std::string(const Json& theirs)>> remedies = {};
  bool resume = false;
};

// Writes a sharded checkpoint out of core, restartable after a kill at any moment. Layout is known
// before the first byte, so tensors go straight to their final offsets in NAME.partial; a unit
// counts once its bytes are on disk and its line is in the ledger (nibble-resume.jsonl). Finished
// shards are renamed. The bytes do not depend on interruptions. One thread. Source:
// docs/formats.md#resume-ledger.
class CheckpointWriter {
 public:
  // Creates the directory or continues in it. Throws kInvalidArgument: not empty and not resuming,
  // nothing to resume, another job or plan; kUnsupported: a ledger of another format;
  // kResourceExhausted: less free disk than bytes to write.
  CheckpointWriter(const CheckpointWriterOptions& options, std::vector<UnitPlan> units);
  ~CheckpointWriter();

  int64_t num_units() const;
  int64_t num_done() const;  // units are done in order: [0, num_done())
  // The note that WriteUnit was given for a done unit.
  const Json& note(int64_t unit) const;

  // Writes the next unit (index num_done()); `tensors` in the plan's order, types and shapes equal
  // to it. `note` is kept in the ledger. On return the unit survives a crash.
  void WriteUnit(const std::vector<TensorView>& tensors, const Json& note);

  // A tensor of a done unit, mapped from its shard. Lives as long as this object.
  TensorView Read(const std::string& name) const;

  // Drops the resident pages of a view from Read; they are read again from the file when accessed.
  void DontNeed(const TensorView& view) const;

  // After the last unit: renames the remaining shards, then writes `files` (name → content;
  // config.json among them) and the index, each atomically. May be repeated.
  void Publish(const std::vector<std::pair<std::string, std::string>>& files);

  // Removes the ledger: the directory is now a finished checkpoint.
  void Complete();

  const std::vector<ShardPlan>& shards() const;
  int64_t total_bytes() const;  // of tensor data

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// What lies beside the weights and goes with them: tokenizer, chat template, generation config and
// licence files; never weights or config.json. Sorted.
std::vector<std::filesystem::path> CompanionFiles(const std::filesystem::path& directory);

// Copies them byte for byte. Returns the names copied.
std::vector<std::string> CopyCompanionFiles(const std::filesystem::path& from,
                                            const std::filesystem::path& to);

}  // namespace nibble
