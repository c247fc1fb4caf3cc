#include "checkpoint/checkpoint_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "checkpoint/safetensors.h"
#include "nibble/error.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr char kLedgerName[] = "nibble-resume.jsonl";
constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kPartial[] = ".partial";
// Grows with every change to what a ledger says or means. Source: docs/formats.md#resume-ledger.
constexpr int kLedgerFormat = 2;

std::string Digest(const std::string& text) { return Sha256(std::as_bytes(std::span(text))); }

// Says which member of two job descriptions differs, and what to do.
void CheckSameJob(const CheckpointWriterOptions& options, const Json& theirs,
                  const fs::path& ledger) {
  if (options.job == theirs) return;
  for (const auto& [key, value] : options.job.items()) {
    const Json before = theirs.value(key, Json());
    if (before == value) continue;
    const auto remedy = options.remedies.find(key);
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: started with {} = {}, now {}; {}, or choose an empty output "
                            "directory",
                            ledger.string(), key, before.is_null() ? "nothing" : before.dump(),
                            value.dump(),
                            remedy == options.remedies.end() ? "resume with the same options"
                                                             : remedy->second(before)));
  }
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("{}: started by another version of nibble with more options; choose an empty "
                  "output directory",
                  ledger.string()));
}

// A line of JSON that is a ledger's first one, of the format that this program writes.
void CheckLedgerHead(const Json& head, const fs::path& ledger) {
  if (!head.is_object() || !head.value("job", Json()).is_object() || !head.contains("plan")) {
    throw Error(ErrorCode::kInvalidData, ledger.string() + ":1: not a resume ledger of nibble");
  }
  const Json format = head.value("format", Json(1));  // the first one did not say
  if (format == kLedgerFormat) return;
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("{}:1: a resume ledger of format {}, expected {}; finish the run with the "
                  "version of nibble that began it, or choose an empty output directory",
                  ledger.string(), format.dump(), kLedgerFormat));
}

}  // namespace

int64_t UnitPlan::size_bytes() const {
  int64_t bytes = 0;
  for (const TensorPlan& tensor : tensors) bytes += tensor.size_bytes();
  return bytes;
}

std::vector<ShardPlan> PlanShards(const std::vector<UnitPlan>& units, int64_t max_shard_bytes) {
  std::vector<ShardPlan> shards;
  int64_t filled = 0;
  for (size_t u = 0; u < units.size(); ++u) {
    const int64_t bytes = units[u].size_bytes();
    if (shards.empty() || filled + bytes > max_shard_bytes) {
      shards.push_back({"", static_cast<int64_t>(u), static_cast<int64_t>(u), "", 0});
      filled = 0;
    }
    filled += bytes;
    shards.back().last_unit = static_cast<int64_t>(u) + 1;
  }
  for (size_t s = 0; s < shards.size(); ++s) {
    ShardPlan& shard = shards[s];
    shard.file = shards.size() == 1
                     ? "model.safetensors"
                     : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    std::vector<SafetensorsEntry> entries;
    for (int64_t u = shard.first_unit; u < shard.last_unit; ++u) {
      for (const TensorPlan& tensor : units[u].tensors) {
        entries.push_back({tensor.name, tensor.dtype, tensor.shape, 0, 0});
      }
    }
    shard.header = LayOutSafetensors(entries);
    shard.size_bytes = static_cast<int64_t>(shard.header.size());
    if (!entries.empty()) shard.size_bytes += entries.back().end;
  }
  return shards;
}

struct CheckpointWriter::State {
  struct Place {
    size_t shard = 0;
    int64_t offset = 0;  // in the file
    const TensorPlan* plan = nullptr;
  };

  fs::path directory;
  std::vector<UnitPlan> units;
  std::vector<ShardPlan> shards;
  std::map<std::string, Place> places;
  std::vector<Json> notes;  // of done units
  File ledger;
  File open_shard;  // the one being filled
  size_t open_index = 0;
  mutable std::map<size_t, MappedFile> mappings;

  fs::path FinalPath(size_t shard) const { return directory / shards[shard].file; }
  fs::path PartialPath(size_t shard) const { return directory / (shards[shard].file + kPartial); }
  size_t ShardOf(int64_t unit) const {
    const auto after =
        std::upper_bound(shards.begin(), shards.end(), unit,
                         [](int64_t u, const ShardPlan& s) { return u < s.last_unit; });
    return static_cast<size_t>(after - shards.begin());
  }

  void PlaceTensors();
  void LoadLedger(const CheckpointWriterOptions& options, const std::string& plan_digest);
  void CheckDiskSpace() const;
  std::vector<fs::path> KilledTemporaries() const;
  void OpenShard(size_t shard);
  void RenameShardIfFull(size_t shard);
};

void CheckpointWriter::State::PlaceTensors() {
  std::map<std::string, const TensorPlan*> plans;
  for (const UnitPlan& unit : units) {
    for (const TensorPlan& tensor : unit.tensors)
      NIBBLE_CHECK(plans.emplace(tensor.name, &tensor).second);
  }
  for (size_t s = 0; s < shards.size(); ++s) {
    const SafetensorsHeader header = ParseSafetensorsHeader(
        std::as_bytes(std::span(shards[s].header)), shards[s].size_bytes, shards[s].file);
    for (const SafetensorsEntry& entry : header.entries) {
      places[entry.name] = {s, header.data_offset + entry.begin, plans.at(entry.name)};
    }
  }
}

std::string LedgerHead(const Json& job, const std::string& plan_digest) {
  return Json({{"format", kLedgerFormat}, {"plan", plan_digest}, {"job", job}}).dump() + "\n";
}

// Reads the lines of finished units; ignores a last line truncated by a crash.
void CheckpointWriter::State::LoadLedger(const CheckpointWriterOptions& options,
                                         const std::string& plan_digest) {
  const fs::path path = directory / kLedgerName;
  const std::string text = ReadTextFile(path);
  std::vector<Json> lines;
  size_t whole_bytes = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    lines.push_back(ParseJson(std::string_view(text).substr(begin, end - begin),
                              fmt::format("{}:{}", path.string(), lines.size() + 1)));
    begin = whole_bytes = end + 1;
  }
  if (lines.empty()) throw Error(ErrorCode::kInvalidData, path.string() + ": holds no whole line");
  const Json& head = lines.front();
  CheckLedgerHead(head, path);
  CheckSameJob(options, head["job"], path);
  if (head["plan"] != plan_digest) {
    throw Error(
        ErrorCode::kInvalidArgument,
        path.string() +
            ": the tensors or the shard size differ from the run that began here; choose an "
            "empty output directory");
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    const size_t unit = i - 1;
    if (unit >= units.size() || !lines[i].is_object() ||
        lines[i].value("unit", "") != units[unit].name) {
      throw Error(
          ErrorCode::kInvalidData,
          fmt::format("{}:{}: does not name the unit expected there", path.string(), i + 1));
    }
    notes.push_back(lines[i].value("note", Json()));
  }
  if (whole_bytes < text.size()) ledger.Truncate(static_cast<int64_t>(whole_bytes));
}

// Checks space for the shards that do not exist yet: existing ones have all their space reserved.
void CheckpointWriter::State::CheckDiskSpace() const {
  int64_t needed = 0;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    const bool there = fs::exists(FinalPath(shard)) || fs::exists(PartialPath(shard));
    if (!there) needed += shards[shard].size_bytes;
  }
  const int64_t free = FreeDiskBytes(directory);
  if (free >= needed) return;
  throw Error(ErrorCode::kResourceExhausted,
              fmt::format("{}: {} needed on disk, {} free", directory.string(), FormatBytes(needed),
                          FormatBytes(free)));
}

// Temporary files that a killed run left behind.
std::vector<fs::path> CheckpointWriter::State::KilledTemporaries() const {
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (IsAtomicFileTemporary(entry.path().filename().string())) paths.push_back(entry.path());
  }
  return paths;
}

void CheckpointWriter::State::OpenShard(size_t shard) {
  if (open_shard.is_open() && open_index == shard) return;
  open_shard = File::OpenToUpdate(PartialPath(shard));
  open_index = shard;
  // Both are repeated on resume: the run may have been killed between them.
  open_shard.Reserve(shards[shard].size_bytes);
  open_shard.WriteAt(std::as_bytes(std::span(shards[shard].header)), 0);
  FlushFolder(directory);  // the name must be durable before the ledger refers to it
}

void CheckpointWriter::State::RenameShardIfFull(size_t shard) {
  if (static_cast<int64_t>(notes.size()) < shards[shard].last_unit || fs::exists(FinalPath(shard)))
    return;
  if (open_index == shard) open_shard = File();
  fs::rename(PartialPath(shard), FinalPath(shard));
  FlushFolder(directory);
}

CheckpointWriter::CheckpointWriter(const CheckpointWriterOptions& options,
                                   std::vector<UnitPlan> units)
    : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.directory = options.directory;
  state.units = std::move(units);
  state.shards = PlanShards(state.units, options.max_shard_bytes);
  state.PlaceTensors();
  std::string headers;
  for (const ShardPlan& shard : state.shards) headers += shard.file + shard.header;
  const std::string plan_digest = Digest(headers);

  const fs::path ledger = state.directory / kLedgerName;
  std::error_code failure;
  fs::create_directories(state.directory, failure);
  if (failure || !fs::is_directory(state.directory)) {
    throw Error(ErrorCode::kIo,
                fmt::format("{}: cannot create the output directory: {}", state.directory.string(),
                            failure ? failure.message() : "a file is in the way"));
  }
  const bool began = fs::exists(ledger);
  if (began && !options.resume) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: holds an unfinished run; give `resume` to continue it, or choose "
                            "an empty directory",
                            state.directory.string()));
  }
  const std::vector<fs::path> temporaries = state.KilledTemporaries();
  const auto entries = std::distance(fs::directory_iterator(state.directory), {});
  if (!began && entries > static_cast<int64_t>(temporaries.size())) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: the output directory is not empty{}", state.directory.string(),
                            options.resume ? " and holds no unfinished run"
                                           : "; choose another or empty it"));
  }
  state.CheckDiskSpace();
  if (!began) WriteTextFile(ledger, LedgerHead(options.job, plan_digest));
  state.ledger = File::OpenToAppend(ledger);
  if (!state.ledger.Lock()) {
    throw Error(ErrorCode::kInvalidArgument,
                ledger.string() +
                    ": another process is writing here; wait for it, or choose an "
                    "empty directory");
  }
  if (began) state.LoadLedger(options, plan_digest);
  for (const fs::path& temporary : temporaries) fs::remove(temporary);
  for (size_t shard = 0; shard < state.shards.size(); ++shard) {
    const bool touched = state.shards[shard].first_unit < static_cast<int64_t>(state.notes.size());
    if (touched && !fs::exists(state.FinalPath(shard)) && !fs::exists(state.PartialPath(shard))) {
      throw Error(
          ErrorCode::kNotFound,
          fmt::format("{}: the ledger says it was written; empty the directory and start again",
                      state.FinalPath(shard).string()));
    }
    if (touched) state.RenameShardIfFull(shard);
  }
}

CheckpointWriter::~CheckpointWriter() = default;

int64_t CheckpointWriter::num_units() const { return static_cast<int64_t>(state_->units.size()); }
int64_t CheckpointWriter::num_done() const { return static_cast<int64_t>(state_->notes.size()); }
const Json& CheckpointWriter::note(int64_t unit) const {
  return state_->notes.at(static_cast<size_t>(unit));
}
const std::vector<ShardPlan>& CheckpointWriter::shards() const { return state_->shards; }

int64_t CheckpointWriter::total_bytes() const {
  int64_t total = 0;
  for (const ShardPlan& shard : state_->shards) {
    total += shard.size_bytes - static_cast<int64_t>(shard.header.size());
  }
  return total;
}

void CheckpointWriter::WriteUnit(const std::vector<TensorView>& tensors, const Json& note) {
  State& state = *state_;
  const int64_t unit = num_done();
  NIBBLE_CHECK(unit < num_units());
  const UnitPlan& plan = state.units[static_cast<size_t>(unit)];
  NIBBLE_CHECK(tensors.size() == plan.tensors.size());
  const size_t shard = state.ShardOf(unit);
  state.OpenShard(shard);
  for (size_t i = 0; i < tensors.size(); ++i) {
    NIBBLE_CHECK(tensors[i].dtype() == plan.tensors[i].dtype &&
                 tensors[i].shape() == plan.tensors[i].shape);
    state.open_shard.WriteAt(tensors[i].bytes(), state.places.at(plan.tensors[i].name).offset);
  }
  state.open_shard.Flush();
  state.ledger.Write(Json({{"unit", plan.name}, {"note", note}}).dump() + "\n");
  state.ledger.Flush();
  state.notes.push_back(note);
  state.RenameShardIfFull(shard);
}

TensorView CheckpointWriter::Read(const std::string& name) const {
  const State::Place& place = state_->places.at(name);
  auto mapping = state_->mappings.find(place.shard);
  if (mapping == state_->mappings.end()) {
    const fs::path final_path = state_->FinalPath(place.shard);
    const fs::path path = fs::exists(final_path) ? final_path : state_->PartialPath(place.shard);
    mapping = state_->mappings.emplace(place.shard, MappedFile(path)).first;
  }
  return TensorView(mapping->second.bytes().data() + place.offset, place.plan->dtype,
                    place.plan->shape);
}

void CheckpointWriter::DontNeed(const TensorView& view) const {
  for (const auto& [shard, mapping] : state_->mappings) {
    const std::span<const std::byte> file = mapping.bytes();
    if (view.data() >= file.data() && view.data() < file.data() + file.size()) {
      mapping.DontNeed(view.bytes());
    }
  }
}

void CheckpointWriter::Publish(const std::vector<std::pair<std::string, std::string>>& files) {
  State& state = *state_;
  NIBBLE_CHECK(num_done() == num_units());
  for (size_t shard = 0; shard < state.shards.size(); ++shard) state.RenameShardIfFull(shard);
  for (const auto& [name, content] : files) WriteTextFile(state.directory / name, content);
  if (state.shards.size() == 1) return;  // a single file needs no index
  Json weight_map = Json::object();
  for (const auto& [name, place] : state.places) weight_map[name] = state.shards[place.shard].file;
  const Json index = {{"metadata", {{"total_size", total_bytes()}}}, {"weight_map", weight_map}};
  WriteTextFile(state.directory / kIndexName, index.dump(2) + "\n");
}

void CheckpointWriter::Complete() {
  state_->ledger = File();
  fs::remove(state_->directory / kLedgerName);
  FlushFolder(state_->directory);
}

std::vector<fs::path> CompanionFiles(const fs::path& directory) {
  static const char* const kPrefixes[] = {
      "tokenizer",          "special_tokens_map.", "added_tokens.", "vocab.", "merges.",
      "generation_config.", "chat_template",       "LICENSE",       "NOTICE"};
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const bool wanted = std::any_of(std::begin(kPrefixes), std::end(kPrefixes),
                                    [&](const char* prefix) { return name.starts_with(prefix); });
    if (wanted && entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> CopyCompanionFiles(const fs::path& from, const fs::path& to) {
  std::vector<std::string> copied;
  for (const fs::path& file : CompanionFiles(from)) {
    copied.push_back(file.filename().string());
    WriteTextFile(to / copied.back(), ReadTextFile(file));
  }
  return copied;
}

}  // namespace nibble
