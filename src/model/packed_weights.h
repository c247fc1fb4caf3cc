#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "backend/backend.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "model/weights.h"

namespace nibble {

// The prepared weights of a model in one file beside its checkpoint: mapped, they are ready without
// being read, and processes share them. The file holds no shapes and no formats of its own: those
// come from the headers of the checkpoint, which must be the one it was made from. Source:
// docs/formats.md#packed-weights.
class PackedWeights {
 public:
  static constexpr char kFileName[] = "nibble-packed.weights";

  // Maps `file`. Throws kInvalidData naming it and what is wrong: damaged, made for another layout,
  // or from another state of the checkpoint. Reads headers and samples of the checkpoint, all of it
  // where the shards were written to since; of the packed weights only where they lie: their
  // content is compared by FindDifference alone. Calls need the checkpoint and the backend; the
  // weights they gave need this object alone.
  PackedWeights(const std::filesystem::path& file, const Checkpoint& checkpoint, Backend& backend);

  // The weight, borrowing from the mapping. Throws kInvalidData if the file lacks a part of it or
  // holds another number of bytes.
  std::unique_ptr<Weight> Adopt(const WeightSource& source) const;

  // Prepares every weight anew and compares: the name of the first that differs, if one does.
  std::optional<std::string> FindDifference() const;

  const std::filesystem::path& path() const { return file_.path(); }
  int64_t size_bytes() const { return static_cast<int64_t>(file_.bytes().size()); }

 private:
  std::span<const std::byte> Find(const WeightPart& part, Role role) const;

  MappedFile file_;
  const Checkpoint* checkpoint_;
  Backend* backend_;
  std::map<std::string, std::span<const std::byte>, std::less<>> weights_;  // with their padding
};

// The packed weights beside the checkpoint, if there are any that can be used; a warning says why
// not.
std::optional<PackedWeights> OpenPackedWeights(const Checkpoint& checkpoint, Backend& backend);

// Prepares every weight, one at a time, and writes them to `file`, which appears whole or not at
// all; returns its size. Throws kUnsupported for a backend whose weights cannot be kept, and
// kResourceExhausted where the disk has no room, before anything is written.
int64_t WritePackedWeights(const Checkpoint& checkpoint, Backend& backend,
                           const std::filesystem::path& file);

}  // namespace nibble
