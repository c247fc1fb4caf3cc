#pragma once

#include <string>

#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"

// What tells one state of a checkpoint's files from another, for whatever is made from them and
// kept. Source: docs/formats.md#packed-weights.
namespace nibble {

// SHA-256 of config.json and of every shard's name, size and header and the middle 64 bytes of each
// of its tensors: found in milliseconds, and different if any tensor was exchanged as a whole.
std::string SampleDigest(const Checkpoint& checkpoint);

// When each shard was last written to, a line "NANOSECONDS  NAME" each.
std::string ModificationTimes(const Checkpoint& checkpoint);

// What sha256sum prints for the shards. Reads everything, a shard a thread.
std::string ContentDigests(const Checkpoint& checkpoint, ThreadPool& pool);

}  // namespace nibble
