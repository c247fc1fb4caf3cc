#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "backend/batch.h"
#include "backend/buffer.h"
#include "backend/linalg.h"
#include "backend/weight.h"

namespace nibble {

// What the attention half of a layer reads. Borrows every weight.
struct AttentionWeights {
  const Weight* norm = nullptr;
  const Weight* q = nullptr;  // [num_heads * head_dim, hidden]
  const Weight* k = nullptr;  // [num_kv_heads * head_dim, hidden]
  const Weight* v = nullptr;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  float norm_eps = 1e-5f;
  std::span<const float> inverse_frequencies;  // [head_dim / 2]; pairs are (i, i + head_dim / 2)
};

struct RouterWeights {
  const Weight* norm = nullptr;
  const Weight* router = nullptr;  // [num_experts, hidden]
  int64_t top_k = 2;
  float norm_eps = 1e-5f;
};

// Indexed by expert; an expert without slots in the routing may be null.
struct ExpertWeights {
  std::vector<const Weight*> gate;  // w1 [intermediate, hidden]
  std::vector<const Weight*> up;    // w3 [intermediate, hidden]
  std::vector<const Weight*> down;  // w2 [hidden, intermediate]
};

struct HeadWeights {
  const Weight* norm = nullptr;
  const Weight* head = nullptr;  // [vocab, hidden]
  float norm_eps = 1e-5f;
};

// One device and its kernels: the seam between the model and the hardware. Ops are sized like fused
// kernels, so that each backend chooses its own fusion behind the same name; the borders between
// them are what GPTQ listens to. One thread calls; ops run in order. Shapes are checked at entry (a
// mismatch is a bug, CHECK); after warm-up no op allocates.
//
// Every result row depends only on that row's inputs: not on its batch mates, nor on the thread
// count.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;   // "reference", "cpu (AVX-512 VNNI, 2 threads)"
  virtual Buffer Allocate(int64_t bytes) = 0;  // 64-byte aligned; throws kResourceExhausted
  Activation MakeActivation(int64_t capacity_rows, int64_t cols);

  // Repacks once into the backend's layout. Throws kUnsupported for a format it cannot run.
  virtual std::unique_ptr<Weight> Prepare(const WeightView& weight, Role role) = 0;

  // Null where prepared weights cannot be kept in a file.
  virtual const WeightLayout* weight_layout() const { return nullptr; }

  virtual void Upload(std::span<const float> host,
                      Activation& x) = 0;  // host.size() == rows * cols
  virtual void Download(const Activation& x, std::span<float> host) = 0;

  // Announces the step; the batch must stay alive and unchanged until EndStep.
  virtual void BeginStep(const Batch& batch) = 0;
  virtual void EndStep() = 0;

  // x[t] = table[tokens[t]]; sets x.rows.
  virtual void Embed(const Weight& table, Activation& x) = 0;

  // normed = RMSNorm(x); q = rope(normed q^T); the rotated k and v go to their slots in `kv`.
  virtual void NormQkvRopeStore(const Activation& x, const AttentionWeights& w, KvPages kv,
                                Activation& normed, Activation& q) = 0;

  // Causal grouped-query attention of q over the pages; a token sees the last `sliding_window`
  // tokens (itself included), or all if 0. out has q's shape.
  virtual void Attention(const Activation& q, KvPages kv, int64_t sliding_window,
                         Activation& out) = 0;

  // x += a o^T.
  virtual void ProjectResidual(const Activation& a, const Weight& o, Activation& x) = 0;

  // h = RMSNorm(x); routing = softmax over all router logits, top k, renormalised; all experts
  // grouped.
  virtual void NormRoute(const Activation& x, const RouterWeights& w, Activation& h,
                         Routing& routing) = 0;

  // g[slot] = silu(gate h[token]) * (up h[token]); sets g.rows to the number of slots.
  virtual void ExpertsGateUp(const Activation& h, const Routing& routing, const ExpertWeights& w,
                             Activation& g) = 0;

  // x[token] += Σ weight * (down g[slot]), summed in increasing order of expert.
  virtual void ExpertsDownResidual(const Activation& g, const Routing& routing,
                                   const ExpertWeights& w, Activation& x) = 0;

  // logits[i] = head RMSNorm(x[rows[i]]); out is host memory [rows.size(), vocab].
  virtual void Logits(const Activation& x, const HeadWeights& w, std::span<const int32_t> rows,
                      std::span<float> out) = 0;

  virtual Linalg& linalg() = 0;
};

}  // namespace nibble
