#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/cpu_weight.h"
#include "backend/cpu/kernels/instruction_set.h"
#include "backend/cpu/linear.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/rope_table.h"
#include "backend/make_backend.h"
#include "base/thread_pool.h"

namespace nibble {

// The backend for CPUs: float activations, dense weights as they are, packed ones multiplied in
// exact integer arithmetic with activations in 16-bit fixed point. Results are the same bits for
// any number of threads, any instruction set and any batch mates; a prompt token computed alone or
// among a thousand gives the same logits.
class CpuBackend final : public Backend {
 public:
  // Throws kInvalidArgument or kUnsupported for an instruction set it cannot use.
  explicit CpuBackend(const BackendOptions& options);
  ~CpuBackend() override;

  std::string_view name() const override { return name_; }
  Buffer Allocate(int64_t bytes) override;
  std::unique_ptr<Weight> Prepare(const WeightView& weight, Role role) override;
  const WeightLayout* weight_layout() const override { return &weight_layout_; }
  void Upload(std::span<const float> host, Activation& x) override;
  void Download(const Activation& x, std::span<float> host) override;
  void BeginStep(const Batch& batch) override;
  void EndStep() override;
  void Embed(const Weight& table, Activation& x) override;
  void NormQkvRopeStore(const Activation& x, const AttentionWeights& w, KvPages kv,
                        Activation& normed, Activation& q) override;
  void Attention(const Activation& q, KvPages kv, int64_t sliding_window, Activation& out) override;
  void ProjectResidual(const Activation& a, const Weight& o, Activation& x) override;
  void NormRoute(const Activation& x, const RouterWeights& w, Activation& h,
                 Routing& routing) override;
  void ExpertsGateUp(const Activation& h, const Routing& routing, const ExpertWeights& w,
                     Activation& g) override;
  void ExpertsDownResidual(const Activation& g, const Routing& routing, const ExpertWeights& w,
                           Activation& x) override;
  void Logits(const Activation& x, const HeadWeights& w, std::span<const int32_t> rows,
              std::span<float> out) override;
  Linalg& linalg() override;

 private:
  struct TokenRun {
    int64_t sequence;
    int64_t first;  // token of the batch
    int64_t count;
  };
  // Query rows that one call of the attention kernel takes, for one KV head, and the spans of the
  // context that they see.
  struct QueryBlock {
    TokenRun tokens;
    int64_t first_span;
    int64_t last_span;
  };
  struct AttentionTask {
    int64_t query_block;
    int64_t head;
    int64_t first_span;
    int64_t last_span;
    int64_t partials;  // where the partial results go; -1: the task has all spans
  };

  void Normalise(const float* x, const int32_t* rows, int64_t num_rows, int64_t cols,
                 const Weight* norm, float eps, float* out);

  const cpu::InstructionSet& set_;
  const cpu::Kernels& kernels_;
  ThreadPool pool_;
  cpu::CpuWeightLayout weight_layout_;
  std::string name_;
  cpu::LinearRunner linear_;
  std::unique_ptr<Linalg> linalg_;  // made when first asked for

  const Batch* batch_ = nullptr;
  cpu::RopeTable rope_;
  std::vector<TokenRun> page_runs_;
  std::vector<QueryBlock> query_blocks_;
  std::vector<AttentionTask> attention_tasks_;
  std::vector<AttentionTask> divided_;  // whose spans are divided: to be folded
  std::vector<cpu::LinearTask> tasks_;
  std::vector<int32_t> slots_by_token_;          // experts increasing inside a token
  std::vector<int32_t> slot_starts_;             // [num_tokens + 1]
  std::vector<cpu::Scratch> attention_scratch_;  // one a thread
  cpu::Scratch keys_, values_, attention_partials_, slot_results_, normed_;
};

}  // namespace nibble
