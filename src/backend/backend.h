#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "backend/activation.h"
#include "backend/batch.h"
#include "backend/gptq_algebra.h"
#include "backend/kv_pages.h"
#include "backend/logit_rows.h"
#include "backend/routing.h"
#include "backend/shapes.h"
#include "backend/weight.h"
#include "base/thread_pool.h"

namespace nibble {

// Weights of the ops. All borrow; where null is allowed it means that a model has no such thing.

struct AttentionWeights {
  const Weight* norm = nullptr;
  const Weight* qkv = nullptr;  // kQkv: q [num_heads * head_dim, hidden], k, v [num_kv_heads …]
  const Weight* qkv_bias = nullptr;  // a bias for each row of the three, or null
  const Weight* q_norm = nullptr;    // [head_dim], of every head before it is rotated, or null
  const Weight* k_norm = nullptr;    // likewise
  const Weight* sinks = nullptr;     // [num_heads]: one more score in every softmax, whose value is
                                     // zero, or null
  const Weight* out = nullptr;       // [hidden, num_heads * head_dim]
  const Weight* out_bias = nullptr;  // [hidden], or null
};

struct RouterWeights {
  const Weight* norm = nullptr;
  const Weight* router = nullptr;      // [num_experts, hidden]; null in a dense layer
  const Weight* correction = nullptr;  // [num_experts], or null
};

// Experts [first_expert, first_expert + num_experts()): all that the slots of a routing name.
struct ExpertWeights {
  const Weight* gate_up = nullptr;  // kGateUp: [intermediate, hidden] twice for each expert
  const Weight* down = nullptr;     // kDown: [hidden, intermediate] for each expert
  int64_t first_expert = 0;
};

struct HeadWeights {
  const Weight* norm = nullptr;
  const Weight* head = nullptr;  // [vocab, hidden]
  float norm_eps = 1e-5f;
};

using PartCopied = std::function<void(size_t part)>;

// One device and its kernels: the seam between the model and the hardware. Ops are sized like fused
// kernels, so that each backend chooses its own fusion behind the same name; the borders between
// them are what GPTQ listens to. One thread calls; ops run in order. Shapes are checked at entry (a
// mismatch is a bug, CHECK); after warm-up no op allocates.
//
// Every result row depends only on that row's inputs: not on its batch mates, nor on the thread
// count. What is not finite in a row shows in its logits, and stays in its sequence.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;  // "reference", "cpu (AVX-512 VNNI, 2 threads)"
  virtual ThreadPool& threads() = 0;          // of the host, shared by all users
  virtual int64_t FreeBytes() const = 0;      // of the memory that weights and pages go to
  virtual GptqAlgebra& algebra() = 0;

  // Memory of the device. All throw kResourceExhausted.
  virtual Activation MakeActivation(int64_t capacity_rows, int64_t cols) = 0;
  virtual int64_t KvBlockBytes(const KvShape& shape) const = 0;  // of a block in all layers
  virtual std::unique_ptr<KvPages> MakeKvPages(const KvShape& shape, int64_t num_blocks) = 0;
  virtual std::unique_ptr<Routing> MakeRouting(const RouterShape& shape, int64_t max_tokens) = 0;
  virtual std::unique_ptr<LogitRows> MakeLogitRows(int64_t max_rows, int64_t vocab_size) = 0;

  // Copies the parts of a weight once into the backend's layout, in order; `copied` hears the index
  // of each part that is not read any more, and may throw. Throws kUnsupported for a format the
  // backend cannot run.
  virtual std::unique_ptr<Weight> Prepare(std::span<const WeightView> parts, Role role,
                                          const PartCopied& copied) = 0;
  std::unique_ptr<Weight> Prepare(std::span<const WeightView> parts, Role role) {
    return Prepare(parts, role, [](size_t) {});
  }
  std::unique_ptr<Weight> Prepare(const WeightView& part, Role role) {
    return Prepare(std::span(&part, 1), role);
  }

  // The bytes of what Prepare makes of such parts (a few more where there is a group index). Looks
  // at shapes and types and the group index, at no values. Throws as Prepare does.
  virtual int64_t WeightBytes(std::span<const WeightView> parts, Role role) const = 0;
  int64_t WeightBytes(const WeightView& part, Role role) const {
    return WeightBytes(std::span(&part, 1), role);
  }

  // Null where prepared weights cannot be kept in a file.
  virtual const WeightLayout* weight_layout() const { return nullptr; }

  // To and from the host; host.size() == rows * cols.
  virtual void Upload(std::span<const float> host, Activation& x) = 0;
  virtual void Download(const Activation& x, std::span<float> host) = 0;
  virtual void Upload(const RoutingTable& table, Routing& routing) = 0;
  virtual void Download(const Routing& routing, RoutingTable& table) = 0;

  // Announces the step; both must stay alive, and the batch unchanged, until EndStep.
  virtual void BeginStep(const Batch& batch, KvPages& kv) = 0;
  virtual void EndStep() = 0;

  // x[t] = table[tokens[t]].
  virtual void Embed(const Weight& table, Activation& x) = 0;

  // normed = RMSNorm(x); q, k, v = normed qkv^T + bias; q and k normed by head and rotated; k and v
  // go to their slots of layer `layer` of the step's pages.
  virtual void NormQkvRopeStore(const Activation& x, const AttentionShape& shape,
                                const AttentionWeights& w, int64_t layer, Activation& normed,
                                Activation& q) = 0;

  // Causal grouped-query attention of q over the pages of `layer`. out has q's shape.
  virtual void Attention(const Activation& q, const AttentionShape& shape,
                         const AttentionWeights& w, int64_t layer, Activation& out) = 0;

  // x += a out^T + out_bias.
  virtual void ProjectResidual(const Activation& a, const AttentionWeights& w, Activation& x) = 0;

  // h = RMSNorm(x), and the routing of its rows; slots of all experts, or of the one of a dense
  // layer.
  virtual void NormRoute(const Activation& x, const RouterShape& shape, const RouterWeights& w,
                         Activation& h, Routing& routing) = 0;

  // Routes every row of h to expert 0 with weight 1 or, with a gate [1, hidden], sigmoid(gate h):
  // what an expert shared by all tokens needs.
  virtual void RouteShared(const Activation& h, const Weight* gate, Routing& routing) = 0;

  // g[slot] = silu(gate h[token]) * (up h[token]), a row a slot.
  virtual void GateUp(const Activation& h, const Routing& routing, const ExpertWeights& w,
                      Activation& g) = 0;

  // x[token] += Σ weight * (down g[slot]), summed in increasing order of expert.
  virtual void DownResidual(const Activation& g, const Routing& routing, const ExpertWeights& w,
                            Activation& x) = 0;

  // logits[i] = head RMSNorm(x[rows[i]]).
  virtual void Head(const Activation& x, const HeadWeights& w, std::span<const int32_t> rows,
                    LogitRows& logits) = 0;
};

// BeginStep and EndStep as a scope, so that an exception in between leaves the backend usable.
class Step {
 public:
  Step(Backend& backend, const Batch& batch, KvPages& kv) : backend_(backend) {
    backend_.BeginStep(batch, kv);
  }
  ~Step() { backend_.EndStep(); }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

 private:
  Backend& backend_;
};

}  // namespace nibble
