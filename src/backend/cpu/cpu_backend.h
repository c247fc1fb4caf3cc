#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/cpu_weight.h"
#include "backend/cpu/kernels/instruction_set.h"
#include "backend/cpu/linear.h"
#include "backend/cpu/rope_table.h"
#include "backend/host/host_kv_pages.h"
#include "backend/make_backend.h"
#include "base/big_memory.h"
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
  ThreadPool& threads() override { return pool_; }
  int64_t FreeBytes() const override;
  GptqAlgebra& algebra() override;

  Activation MakeActivation(int64_t capacity_rows, int64_t cols) override;
  int64_t KvBlockBytes(const KvShape& shape) const override;
  std::unique_ptr<KvPages> MakeKvPages(const KvShape& shape, int64_t num_blocks) override;
  std::unique_ptr<Routing> MakeRouting(const RouterShape& shape, int64_t max_tokens) override;
  std::unique_ptr<LogitRows> MakeLogitRows(int64_t max_rows, int64_t vocab_size) override;
  using Backend::Prepare;
  std::unique_ptr<Weight> Prepare(std::span<const WeightView> parts, Role role,
                                  const PartCopied& copied) override;
  using Backend::WeightBytes;
  int64_t WeightBytes(std::span<const WeightView> parts, Role role) const override;
  const WeightLayout* weight_layout() const override { return &weight_layout_; }

  void Upload(std::span<const float> host, Activation& x) override;
  void Download(const Activation& x, std::span<float> host) override;
  void Upload(const RoutingTable& table, Routing& routing) override;
  void Download(const Routing& routing, RoutingTable& table) override;

  void BeginStep(const Batch& batch, KvPages& kv) override;
  void EndStep() override;
  void Embed(const Weight& table, Activation& x) override;
  void NormQkvRopeStore(const Activation& x, const AttentionShape& shape, const AttentionWeights& w,
                        int64_t layer, Activation& normed, Activation& q) override;
  void Attention(const Activation& q, const AttentionShape& shape, const AttentionWeights& w,
                 int64_t layer, Activation& out) override;
  void ProjectResidual(const Activation& a, const AttentionWeights& w, Activation& x) override;
  void NormRoute(const Activation& x, const RouterShape& shape, const RouterWeights& w,
                 Activation& h, Routing& routing) override;
  void RouteShared(const Activation& h, const Weight* gate, Routing& routing) override;
  void GateUp(const Activation& h, const Routing& routing, const ExpertWeights& w,
              Activation& g) override;
  void DownResidual(const Activation& g, const Routing& routing, const ExpertWeights& w,
                    Activation& x) override;
  void Head(const Activation& x, const HeadWeights& w, std::span<const int32_t> rows,
            LogitRows& logits) override;

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

  HostKvLayer Pages(const AttentionShape& shape, int64_t layer) const;
  void Normalise(const Activation& x, const int32_t* rows, int64_t num_rows, const Weight* norm,
                 float eps, float* out);
  void CutAttention(const HostKvLayer& kv, int64_t heads, int64_t window);

  const std::string requested_set_;  // empty: none in particular
  const cpu::InstructionSet& set_;
  const cpu::Kernels& kernels_;
  ThreadPool pool_;
  cpu::CpuWeightLayout weight_layout_;
  std::string name_;
  cpu::LinearRunner linear_;
  std::unique_ptr<GptqAlgebra> algebra_;  // made on first use

  const Batch* batch_ = nullptr;
  HostKvPages* kv_ = nullptr;
  cpu::RopeTable rope_;
  std::vector<TokenRun> page_runs_;
  std::vector<QueryBlock> query_blocks_;
  std::vector<AttentionTask> attention_tasks_;
  std::vector<AttentionTask> divided_;  // split over spans: partial results to combine
  int64_t partial_floats_ = 0;          // of all partial results
  std::vector<cpu::LinearTask> tasks_;
  std::vector<float> expert_scores_;
  std::vector<int32_t> slots_by_token_;     // experts increasing inside a token
  std::vector<int32_t> slot_starts_;        // [num_tokens + 1]
  std::vector<Scratch> attention_scratch_;  // one a thread
  Scratch keys_, values_, attention_partials_, slot_results_, normed_;
};

}  // namespace nibble
