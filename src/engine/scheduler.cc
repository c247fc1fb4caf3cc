#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace nibble {

Scheduler::Scheduler(const SchedulerLimits& limits, BlockPool& pool)
    : limits_(limits), pool_(pool) {
  NIBBLE_CHECK(limits.max_step_tokens >= 1 && limits.max_running >= 1 && limits.block_size >= 1);
}

int64_t Scheduler::BlocksNeeded(int64_t prompt_length, int64_t max_output, int64_t block_size) {
  return BlocksFor(prompt_length + max_output - 1, block_size);
}

void Scheduler::Add(int64_t id, std::vector<int32_t> prompt) {
  NIBBLE_CHECK(!prompt.empty());
  const bool is_new = sequences_.emplace(id, Sequence{std::move(prompt), 0, {}}).second;
  NIBBLE_CHECK(is_new);
  waiting_.push_back(id);
}

// The last block first.
void Scheduler::ReleaseBlocks(Sequence& sequence) {
  while (!sequence.blocks.empty()) {
    pool_.Release(sequence.blocks.back());
    sequence.blocks.pop_back();
  }
}

// Allocates blocks for all tokens of the sequence; false if the pool runs out (it keeps those
// already allocated).
bool Scheduler::Reserve(Sequence& sequence) {
  const int64_t needed =
      BlocksFor(static_cast<int64_t>(sequence.tokens.size()), limits_.block_size);
  while (static_cast<int64_t>(sequence.blocks.size()) < needed) {
    const auto block = pool_.Allocate();
    if (!block) return false;
    sequence.blocks.push_back(*block);
  }
  return true;
}

void Scheduler::PreemptYoungest() {
  const int64_t id = running_.back();
  running_.pop_back();
  Sequence& sequence = sequences_.at(id);
  ReleaseBlocks(sequence);
  sequence.num_computed = 0;
  waiting_.push_front(id);
  ++num_preemptions_;
}

// As much of the sequence as the budget allows.
void Scheduler::PlanChunk(int64_t id) {
  const Sequence& sequence = sequences_.at(id);
  const int64_t count = std::min(sequence.num_pending(), budget_);
  plan_.push_back({id, sequence.num_computed, count, count == sequence.num_pending()});
  budget_ -= count;
}

void Scheduler::PlanRunning() {
  for (size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    const int64_t id = running_[i];
    Sequence& sequence = sequences_.at(id);
    while (!Reserve(sequence)) {
      PreemptYoungest();
      if (i == running_.size()) return;  // it was the youngest itself
    }
    PlanChunk(id);
  }
}

void Scheduler::PlanWaiting() {
  while (!waiting_.empty() && budget_ > 0 && num_running() < limits_.max_running) {
    const int64_t id = waiting_.front();
    Sequence& sequence = sequences_.at(id);
    if (!Reserve(sequence)) {
      ReleaseBlocks(sequence);
      return;
    }
    waiting_.pop_front();
    running_.push_back(id);
    PlanChunk(id);
  }
}

std::span<const Chunk> Scheduler::Plan() {
  plan_.clear();
  budget_ = limits_.max_step_tokens;
  const int64_t preemptions_before = num_preemptions_;
  PlanRunning();
  // A sequence preempted by this plan must not be admitted again by the same plan.
  if (num_preemptions_ == preemptions_before) PlanWaiting();
  NIBBLE_CHECK(!plan_.empty() || idle());
  return plan_;
}

void Scheduler::Commit(std::span<const int32_t> tokens) {
  size_t next = 0;
  for (const Chunk& chunk : plan_) {
    Sequence& sequence = sequences_.at(chunk.sequence);
    sequence.num_computed += chunk.count;
    if (chunk.wants_token) sequence.tokens.push_back(tokens[next++]);
  }
  NIBBLE_CHECK(next == tokens.size());
  plan_.clear();
}

void Scheduler::Remove(int64_t id) {
  NIBBLE_CHECK(plan_.empty());
  ReleaseBlocks(sequences_.at(id));
  sequences_.erase(id);
  std::erase(running_, id);
  std::erase(waiting_, id);
}

}  // namespace nibble
