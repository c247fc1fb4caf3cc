#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "backend/host/host_kv_pages.h"

namespace nibble {

// The oracle: every op as the plain loop its comment in backend.h describes, computed in double
// from weights widened (or dequantized) to float; results of ops are rounded to float. Slow,
// obvious, single-threaded, never the default. Every other backend is compared with it.
class ReferenceBackend final : public Backend {
 public:
  ReferenceBackend();
  ~ReferenceBackend() override;

  std::string_view name() const override { return "reference"; }
  ThreadPool& threads() override { return algebra_->threads(); }
  int64_t FreeBytes() const override;
  GptqAlgebra& algebra() override { return *algebra_; }

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
  HostKvLayer Pages(const AttentionShape& shape, int64_t layer) const;

  std::unique_ptr<GptqAlgebra> algebra_;
  const Batch* batch_ = nullptr;
  HostKvPages* kv_ = nullptr;
};

}  // namespace nibble
