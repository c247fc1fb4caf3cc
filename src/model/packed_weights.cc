#include "model/packed_weights.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>
#include <vector>

#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "checkpoint/fingerprint.h"
#include "checkpoint/safetensors.h"
#include "nibble/error.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr char kFormat[] = "nibble packed weights 1";

// Weights start on pages, so that hints about one do not touch its neighbours.
constexpr int64_t kPage = 4096;
static_assert(kPage % WeightLayout::kAlignment == 0);

int64_t RoundUp(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// What a weight takes in the file: its bytes, those that must be readable behind, padding.
int64_t PaddedBytes(int64_t bytes) { return RoundUp(bytes + WeightLayout::kSlackBytes); }

Error Unusable(const fs::path& file, const std::string& why) {
  return Error(ErrorCode::kInvalidData, fmt::format("{}: {}", file.string(), why));
}

// Throws unless the file was made from the checkpoint as it is.
void CheckSource(const fs::path& file, const std::map<std::string, std::string>& metadata,
                 const Checkpoint& checkpoint, Backend& backend) {
  const auto field = [&](const char* key) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) throw Unusable(file, fmt::format("__metadata__ lacks {}", key));
    return found->second;
  };
  if (field("source_sample") != SampleDigest(checkpoint)) {
    throw Unusable(file, "made from other weights or another config.json than those beside it");
  }
  if (field("source_modified") == ModificationTimes(checkpoint)) return;
  // Copied, or changed in a place that the sample does not see.
  if (field("source_content") != ContentDigests(checkpoint, backend.threads())) {
    throw Unusable(file, "the weights beside it were changed after it was made");
  }
}

// Length, JSON, spaces up to a page. Entries are [begin, end) after it.
std::string MakeHeader(const std::vector<std::pair<std::string, int64_t>>& weights,
                       const std::map<std::string, std::string>& metadata) {
  Json document;
  for (const auto& [key, value] : metadata) document["__metadata__"][key] = value;
  int64_t offset = 0;
  for (const auto& [module, bytes] : weights) {
    document[module] = {
        {"dtype", "U8"}, {"shape", {bytes}}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string json = document.dump();
  json.resize(RoundUp(static_cast<int64_t>(json.size()) + 8) - 8, ' ');
  std::string header;
  for (size_t i = 0; i < 8; ++i) header += static_cast<char>((json.size() >> (8 * i)) & 0xff);
  return header + json;
}

const WeightLayout& LayoutOf(const Backend& backend) {
  if (const WeightLayout* layout = backend.weight_layout()) return *layout;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("weights of the backend {} cannot be packed to a file; use `backend` cpu",
                          backend.name()));
}

}  // namespace

PackedWeights::PackedWeights(const fs::path& file, const Checkpoint& checkpoint, Backend& backend)
    : file_(file), checkpoint_(&checkpoint), backend_(&backend) {
  const WeightLayout& layout = LayoutOf(backend);
  const std::span<const std::byte> bytes = file_.bytes();
  const SafetensorsHeader header =
      ParseSafetensorsHeader(bytes, static_cast<int64_t>(bytes.size()), file.string());
  const auto found = [&](const char* key) {
    const auto field = header.metadata.find(key);
    return field == header.metadata.end() ? std::string("none") : field->second;
  };
  if (found("format") != kFormat) {
    throw Unusable(file, fmt::format("expected the format \"{}\", found \"{}\"", kFormat,
                                     Utf8Prefix(found("format"), 100)));
  }
  if (found("layout") != layout.name()) {
    throw Unusable(file, fmt::format("holds the layout \"{}\", this program uses \"{}\"",
                                     Utf8Prefix(found("layout"), 100), layout.name()));
  }
  if (header.data_offset % kPage != 0) throw Unusable(file, "its data does not start on a page");
  for (const SafetensorsEntry& entry : header.entries) {
    weights_[entry.name] = bytes.subspan(header.data_offset + entry.begin, entry.end - entry.begin);
  }
  CheckSource(file, header.metadata, checkpoint, backend);
  for (const WeightSource& source : AllWeights(checkpoint)) {
    for (const WeightPart& part : source.parts) Find(part, source.role);
  }
}

std::span<const std::byte> PackedWeights::Find(const WeightPart& part, Role role) const {
  const auto found = weights_.find(part.module);
  if (found == weights_.end()) {
    throw Unusable(path(), fmt::format("lacks the weight {}", part.module));
  }
  const int64_t bytes = backend_->weight_layout()->SizeBytes(part.view, role);
  const auto stored = static_cast<int64_t>(found->second.size());
  const int64_t offset = found->second.data() - file_.bytes().data();
  if (stored != PaddedBytes(bytes) || offset % kPage != 0) {
    throw Unusable(path(), fmt::format("{}: expected {} bytes at the start of a page, found {} at "
                                       "byte {}",
                                       part.module, PaddedBytes(bytes), stored, offset));
  }
  return found->second.first(bytes);
}

std::unique_ptr<Weight> PackedWeights::Adopt(const WeightSource& source) const {
  std::vector<std::span<const std::byte>> bytes;
  for (const WeightPart& part : source.parts) bytes.push_back(Find(part, source.role));
  return backend_->weight_layout()->Adopt(source.views(), source.role, bytes);
}

std::optional<std::string> PackedWeights::FindDifference() const {
  for (const WeightSource& source : AllWeights(*checkpoint_)) {
    ThrowIfInterrupted();
    const auto prepared = LoadWeight(*checkpoint_, source, *backend_);
    for (size_t i = 0; i < source.parts.size(); ++i) {
      const std::span<const std::byte> packed = Find(source.parts[i], source.role);
      const std::span<const std::byte> expected =
          backend_->weight_layout()->Bytes(*prepared, static_cast<int64_t>(i));
      if (std::memcmp(packed.data(), expected.data(), packed.size()) != 0) {
        return source.parts[i].module;
      }
      file_.DontNeed(packed);
    }
  }
  return std::nullopt;
}

std::optional<PackedWeights> OpenPackedWeights(const Checkpoint& checkpoint, Backend& backend) {
  const fs::path file = checkpoint.directory() / PackedWeights::kFileName;
  if (backend.weight_layout() == nullptr || !fs::exists(file)) return std::nullopt;
  try {
    return PackedWeights(file, checkpoint, backend);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInterrupted) throw;
    LogWarning(
        "packed_weights_ignored reason=\"{}\" effect=\"weights are repacked\" "
        "next=\"nibble pack --force {}\"",
        error.what(), checkpoint.directory().string());
    return std::nullopt;
  }
}

int64_t WritePackedWeights(const Checkpoint& checkpoint, Backend& backend, const fs::path& file) {
  const WeightLayout& layout = LayoutOf(backend);
  const std::vector<WeightSource> sources = AllWeights(checkpoint);
  std::vector<std::pair<std::string, int64_t>> weights;
  int64_t total = 0;
  for (const WeightSource& source : sources) {
    for (const WeightPart& part : source.parts) {
      weights.emplace_back(part.module, PaddedBytes(layout.SizeBytes(part.view, source.role)));
      total += weights.back().second;
    }
  }
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  const int64_t available = FreeDiskBytes(folder);
  if (total > available) {
    throw Error(ErrorCode::kResourceExhausted,
                fmt::format("{}: the packed weights take {}, and {} are free on that disk; free "
                            "some space or choose another place for `out`",
                            file.string(), FormatBytes(total), FormatBytes(available)));
  }

  // Times before contents: what is changed meanwhile has another time than the one noted.
  std::map<std::string, std::string> metadata = {{"format", kFormat},
                                                 {"layout", std::string(layout.name())},
                                                 {"source_modified", ModificationTimes(checkpoint)},
                                                 {"source_sample", SampleDigest(checkpoint)}};
  metadata["source_content"] = ContentDigests(checkpoint, backend.threads());
  const std::string header = MakeHeader(weights, metadata);
  AtomicFile out(file);
  out.Write(header);
  Progress progress("pack " + checkpoint.directory().filename().string(), "B", total);
  const std::vector<std::byte> zeros(kPage + WeightLayout::kSlackBytes);
  auto entry = weights.begin();
  for (const WeightSource& source : sources) {
    ThrowIfInterrupted();
    const auto weight = LoadWeight(checkpoint, source, backend);
    for (int64_t part = 0; part < weight->num_parts(); ++part, ++entry) {
      const std::span<const std::byte> bytes = layout.Bytes(*weight, part);
      out.Write(bytes);
      out.Write(std::span(zeros).first(static_cast<size_t>(entry->second) - bytes.size()));
      progress.Add(entry->second);
    }
  }
  out.Commit();
  return static_cast<int64_t>(header.size()) + total;
}

}  // namespace nibble
