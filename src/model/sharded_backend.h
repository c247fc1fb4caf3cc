#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/host/host_logits.h"
#include "dist/communicator.h"
#include "model/spec.h"

namespace nibble {

// One rank's share of a model as a Backend, around the backend that computes it: the model is
// loaded and run as on one device, and knows of no ranks.
//
// Every matrix is cut by rows, its outputs, so that each output element is computed whole by one
// rank, in the order in which a single process computes it; then the outputs are gathered. So
// logits have the bits of one process, on any number of ranks. Heads are cut by KV groups (the KV
// pages likewise), other rows in units of whole tiles. Norms, the router and the embedding are
// replicated. A rank without rows of a matrix only takes part in the gather.
//
// Gathers go through host memory. Not for packed weight files, nor for calibration.
class ShardedBackend final : public Backend {
 public:
  // All must outlive it. `spec` is that of the model which will run on it.
  ShardedBackend(Backend& inner, Communicator& communicator, const ModelSpec& spec);

  std::string_view name() const override { return name_; }
  ThreadPool& threads() override { return inner_.threads(); }
  int64_t FreeBytes() const override { return inner_.FreeBytes(); }
  GptqAlgebra& algebra() override { return inner_.algebra(); }

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
  // Elements [first, last) of an axis.
  struct Share {
    int64_t first = 0;
    int64_t last = 0;
    int64_t size() const { return last - first; }
  };

  // What rank `rank` has of `count` elements that are dealt in units.
  Share ShareOf(int64_t count, int64_t unit, int64_t rank) const;
  Share MyShare(int64_t count, int64_t unit) const;
  // This rank's heads; none if there are more ranks than KV groups.
  AttentionShape MyHeads(const AttentionShape& shape) const;
  Share MyRows(const WeightView& part, int64_t index, Role role) const;
  // This rank's rows of each part; none at all if it has none of one.
  std::vector<WeightView> MyParts(std::span<const WeightView> parts, Role role) const;

  // full [rows, cols] = the columns that every rank has of it, dealt in units of `unit`.
  void GatherColumns(const float* mine, int64_t rows, int64_t cols, int64_t unit,
                     std::span<float> full);
  void GatherInto(const Activation& mine, int64_t rows, int64_t cols, int64_t unit,
                  Activation& full);
  // x += what `add` adds to this rank's columns of it; then all columns are gathered.
  template <typename Add>
  void AddToColumns(Activation& x, const Add& add);

  Backend& inner_;
  Communicator& communicator_;
  AttentionShape heads_;  // of the whole model, as far as its KV groups go
  std::string name_;
  Activation columns_;  // this rank's share of some output
  int64_t columns_capacity_ = 0;
  std::unique_ptr<LogitRows> my_logits_;
  int64_t rows_ = 0;                           // tokens of the step
  RoutingTable table_;                         // of the step's last routing
  std::vector<float> mine_, gathered_, full_;  // on the host
};

}  // namespace nibble
