#pragma once

#include <string>

#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"

// Digests that identify the state of a checkpoint's files, for caches derived from them. Source:
// docs/formats.md#packed-weights.
namespace nibble {

// SHA-256 of config.json and of every shard's name, size and header and the middle 64 bytes of each
// of its tensors: computed in milliseconds, and different if any tensor was replaced as a whole.
std::string SampleDigest(const Checkpoint& checkpoint);

// When each shard was last written to, a line "NANOSECONDS  NAME" each.
std::string ModificationTimes(const Checkpoint& checkpoint);

// The output of sha256sum for the shards. Reads everything, one shard per thread.
std::string ContentDigests(const Checkpoint& checkpoint, ThreadPool& pool);

}  // namespace nibble
