#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace nibble {

// The oracle: every op as the plain loop its comment in backend.h describes, computed in double
// from weights widened (or dequantized) to float; what lies between ops is rounded to float. Slow,
// obvious, single-threaded, never the default. Every other backend is compared with it.
class ReferenceBackend final : public Backend {
 public:
  ReferenceBackend();
  ~ReferenceBackend() override;

  std::string_view name() const override { return "reference"; }
  Buffer Allocate(int64_t bytes) override;
  std::unique_ptr<Weight> Prepare(const WeightView& weight, Role role) override;
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
  const Batch* batch_ = nullptr;
  std::unique_ptr<Linalg> linalg_;
};

}  // namespace nibble
