#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <vector>

#include "backend/kv_pages.h"
#include "engine/block_pool.h"

namespace nibble {

struct SchedulerLimits {
  int64_t max_step_tokens = 512;      // tokens a step runs at most
  int64_t max_running = 64;           // sequences that hold blocks at once
  int64_t block_size = kKvBlockSize;  // tokens a KV block
};

// The running state of a request: its prompt, then the generated tokens.
struct Sequence {
  std::vector<int32_t> tokens;
  int64_t num_computed = 0;  // tokens whose keys and values lie in its blocks
  std::vector<int32_t> blocks;

  int64_t num_pending() const { return static_cast<int64_t>(tokens.size()) - num_computed; }
};

// Tokens [first, first + count) of a sequence, run in one step. With wants_token they are its last,
// and the step yields its next token.
struct Chunk {
  int64_t sequence = 0;
  int64_t first = 0;
  int64_t count = 0;
  bool wants_token = false;
};

// Decides which tokens run in which step, and which sequence holds which KV blocks. Policy only: no
// model, clock or text is involved, so it can be simulated.
//
// Continuous batching with chunked prefill, without separate phases: each step computes pending
// tokens of sequences within the token budget, first those of running sequences, oldest first, then
// those of waiting ones. A sequence is admitted when there are free blocks for all its tokens, and
// it allocates them at once; so only the youngest can have part of its prompt pending, and decodes
// always precede prompts. When blocks run out, the youngest sequence is preempted: it releases its
// blocks, returns to the head of the queue and is computed again later. So the oldest always
// progresses, and since every added sequence fits the pool alone, all sequences finish.
//
// Not thread-safe.
class Scheduler {
 public:
  // The pool must outlive it.
  Scheduler(const SchedulerLimits& limits, BlockPool& pool);

  // Blocks that a sequence needs by its end; its last token is never run.
  static int64_t BlocksNeeded(int64_t prompt_length, int64_t max_output, int64_t block_size);

  // Queues a sequence under an id that is not in use. It must fit the pool alone (see
  // BlocksNeeded).
  void Add(int64_t id, std::vector<int32_t> prompt);

  // What to run next; empty only when nothing is left. Changes bookkeeping, runs nothing.
  std::span<const Chunk> Plan();

  // The plan was run and gave these tokens, one for each chunk with wants_token, in order.
  void Commit(std::span<const int32_t> tokens);

  // Removes a sequence, finished or not, and releases its blocks; only between a Commit and the
  // next Plan.
  void Remove(int64_t id);

  bool idle() const { return sequences_.empty(); }
  const Sequence& sequence(int64_t id) const { return sequences_.at(id); }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }

 private:
  bool Reserve(Sequence& sequence);
  void ReleaseBlocks(Sequence& sequence);
  void PreemptYoungest();
  void PlanRunning();
  void PlanWaiting();
  void PlanChunk(int64_t id);

  SchedulerLimits limits_;
  BlockPool& pool_;
  std::map<int64_t, Sequence> sequences_;
  std::deque<int64_t> waiting_;
  std::vector<int64_t> running_;  // oldest first
  std::vector<Chunk> plan_;
  int64_t budget_ = 0;  // tokens left in the step being planned
  int64_t num_preemptions_ = 0;
};

}  // namespace nibble
