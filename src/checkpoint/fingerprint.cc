#include "checkpoint/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "base/file.h"
#include "base/progress.h"
#include "base/sha256.h"

namespace nibble {
namespace {

constexpr size_t kSampleBytes = 64;

std::string NameOf(const MappedFile& shard) { return shard.path().filename().string(); }

// Length and JSON, which Checkpoint has checked to be inside the file.
std::span<const std::byte> HeaderOf(const MappedFile& shard) {
  size_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= std::to_integer<size_t>(shard.bytes()[i]) << (8 * i);
  return shard.bytes().first(8 + length);
}

}  // namespace

std::string SampleDigest(const Checkpoint& checkpoint) {
  Sha256Hasher hasher;
  const auto add_text = [&](const std::string& text) {
    hasher.Add(std::as_bytes(std::span(text)));
  };
  const std::string config = ReadTextFile(checkpoint.directory() / "config.json");
  add_text(fmt::format("{} config.json\n", config.size()));
  add_text(config);
  for (const MappedFile& shard : checkpoint.shards()) {
    add_text(fmt::format("{} {}\n", shard.bytes().size(), NameOf(shard)));
    hasher.Add(HeaderOf(shard));
    shard.ExpectJumps(true);
  }
  for (const std::string& name : checkpoint.names()) {
    const TensorView tensor = checkpoint.Get(name);
    const std::span<const std::byte> bytes = tensor.bytes();
    const size_t size = std::min(kSampleBytes, bytes.size());
    hasher.Add(bytes.subspan((bytes.size() - size) / 2, size));
    checkpoint.DontNeed(tensor);  // drops the pages that the kernel has mapped around the sample
  }
  for (const MappedFile& shard : checkpoint.shards()) shard.ExpectJumps(false);
  return hasher.Finish();
}

std::string ModificationTimes(const Checkpoint& checkpoint) {
  std::string lines;
  for (const MappedFile& shard : checkpoint.shards()) {
    lines += fmt::format("{}  {}\n", ModificationTime(shard.path()), NameOf(shard));
  }
  return lines;
}

std::string ContentDigests(const Checkpoint& checkpoint, ThreadPool& pool) {
  const std::vector<MappedFile>& shards = checkpoint.shards();
  std::vector<std::string> digests(shards.size());
  int64_t total = 0;
  for (const MappedFile& shard : shards) total += static_cast<int64_t>(shard.bytes().size());
  Progress progress("hash " + checkpoint.directory().filename().string(), "B", total);
  std::mutex mutex;
  const auto hashed = [&](int64_t bytes) {
    const std::lock_guard lock(mutex);
    progress.Add(bytes);
  };
  pool.ParallelFor(static_cast<int64_t>(shards.size()), [&](int64_t index, int) {
    const auto i = static_cast<size_t>(index);
    digests[i] = Sha256File(shards[i].path(), hashed);
  });
  std::string lines;
  for (size_t i = 0; i < shards.size(); ++i) {
    lines += fmt::format("{}  {}\n", digests[i], NameOf(shards[i]));
  }
  return lines;
}

}  // namespace nibble
