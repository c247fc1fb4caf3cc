#include "model/sharded_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace nibble {
namespace {

// Rows are dealt in whole tiles of the CPU's kernels; expert widths in whole blocks of the
// fixed-point activations that the next matrix reads.
constexpr int64_t kTile = 64;
constexpr int64_t kBlock = 128;

std::vector<MatrixShape> ShapesOf(std::span<const WeightView> parts) {
  std::vector<MatrixShape> shapes;
  for (const WeightView& part : parts) shapes.push_back(ShapeOf(part));
  return shapes;
}

// The whole's shapes, and this rank's rows of it as the inner backend has them; null where there
// are none.
class ShardedWeight final : public Weight {
 public:
  ShardedWeight(std::vector<MatrixShape> whole, std::unique_ptr<Weight> mine)
      : Weight(std::move(whole)), mine_(std::move(mine)) {}

  int64_t size_bytes() const override { return mine_ == nullptr ? 0 : mine_->size_bytes(); }
  const Weight* mine() const { return mine_.get(); }

 private:
  std::unique_ptr<Weight> mine_;
};

const Weight* Mine(const Weight* weight) {
  return weight == nullptr ? nullptr : static_cast<const ShardedWeight*>(weight)->mine();
}

AttentionWeights Mine(const AttentionWeights& w) {
  return {.norm = Mine(w.norm),
          .qkv = Mine(w.qkv),
          .qkv_bias = Mine(w.qkv_bias),
          .q_norm = Mine(w.q_norm),
          .k_norm = Mine(w.k_norm),
          .sinks = Mine(w.sinks),
          .out = Mine(w.out),
          .out_bias = Mine(w.out_bias)};
}

ExpertWeights Mine(const ExpertWeights& w) {
  return {Mine(w.gate_up), Mine(w.down), w.first_expert};
}

}  // namespace

ShardedBackend::ShardedBackend(Backend& inner, Communicator& communicator, const ModelSpec& spec)
    : inner_(inner),
      communicator_(communicator),
      heads_(spec.layers.front().attention),
      name_(fmt::format("{}, rank {} of {}", inner.name(), communicator.rank(),
                        communicator.size())) {}

ShardedBackend::Share ShardedBackend::ShareOf(int64_t count, int64_t unit, int64_t rank) const {
  const int64_t units = (count + unit - 1) / unit;
  const auto edge = [&](int64_t r) {
    return std::min(r * units / communicator_.size() * unit, count);
  };
  return {edge(rank), edge(rank + 1)};
}

ShardedBackend::Share ShardedBackend::MyShare(int64_t count, int64_t unit) const {
  return ShareOf(count, unit, communicator_.rank());
}

AttentionShape ShardedBackend::MyHeads(const AttentionShape& shape) const {
  AttentionShape mine = shape;
  mine.num_kv_heads = MyShare(shape.num_kv_heads, 1).size();
  mine.num_heads = shape.num_heads / shape.num_kv_heads * mine.num_kv_heads;
  return mine;
}

ShardedBackend::Share ShardedBackend::MyRows(const WeightView& part, int64_t index,
                                             Role role) const {
  const MatrixShape shape = ShapeOf(part);
  const bool is_vector = role == Role::kQkvBias || role == Role::kOutBias || role == Role::kSinks;
  const int64_t count = is_vector ? shape.cols : shape.rows;  // outputs
  switch (role) {
    case Role::kQkv:
    case Role::kQkvBias:
      return MyShare(count, index == 0 ? heads_.num_heads / heads_.num_kv_heads * heads_.head_dim
                                       : heads_.head_dim);
    case Role::kSinks:
      return MyShare(count, heads_.num_heads / heads_.num_kv_heads);
    case Role::kProjection:
    case Role::kOutBias:
    case Role::kDown:
    case Role::kHead:
      return MyShare(count, kTile);
    case Role::kGateUp:
      return MyShare(count, kBlock);
    case Role::kVector:
    case Role::kEmbedding:
    case Role::kRouter:
      return {0, count};
  }
  return {};
}

std::vector<WeightView> ShardedBackend::MyParts(std::span<const WeightView> parts,
                                                Role role) const {
  std::vector<WeightView> mine;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Share rows = MyRows(parts[i], static_cast<int64_t>(i), role);
    if (rows.size() == 0) return {};  // then the other parts have none either
    mine.push_back(role == Role::kVector ? parts[i] : RowsOf(parts[i], rows.first, rows.size()));
  }
  return mine;
}

std::unique_ptr<Weight> ShardedBackend::Prepare(std::span<const WeightView> parts, Role role,
                                                const PartCopied& copied) {
  const std::vector<WeightView> mine = MyParts(parts, role);
  if (!mine.empty()) {
    return std::make_unique<ShardedWeight>(ShapesOf(parts), inner_.Prepare(mine, role, copied));
  }
  for (size_t part = 0; part < parts.size(); ++part) copied(part);
  return std::make_unique<ShardedWeight>(ShapesOf(parts), nullptr);
}

int64_t ShardedBackend::WeightBytes(std::span<const WeightView> parts, Role role) const {
  return inner_.WeightBytes(MyParts(parts, role), role);
}

Activation ShardedBackend::MakeActivation(int64_t capacity_rows, int64_t cols) {
  // No share of an activation is larger than the largest activation.
  columns_capacity_ = std::max(columns_capacity_, capacity_rows * cols);
  return inner_.MakeActivation(capacity_rows, cols);
}

int64_t ShardedBackend::KvBlockBytes(const KvShape& shape) const {
  KvShape mine = shape;
  mine.num_kv_heads = std::max<int64_t>(1, MyShare(shape.num_kv_heads, 1).size());
  return inner_.KvBlockBytes(mine);
}

std::unique_ptr<KvPages> ShardedBackend::MakeKvPages(const KvShape& shape, int64_t num_blocks) {
  KvShape mine = shape;  // a rank without heads has pages that nothing is written to
  mine.num_kv_heads = std::max<int64_t>(1, MyShare(shape.num_kv_heads, 1).size());
  return inner_.MakeKvPages(mine, num_blocks);
}

std::unique_ptr<Routing> ShardedBackend::MakeRouting(const RouterShape& shape, int64_t max_tokens) {
  return inner_.MakeRouting(shape, max_tokens);
}

std::unique_ptr<LogitRows> ShardedBackend::MakeLogitRows(int64_t max_rows, int64_t vocab_size) {
  const int64_t mine = MyShare(vocab_size, kTile).size();
  if (mine > 0) my_logits_ = inner_.MakeLogitRows(max_rows, mine);
  return std::make_unique<HostLogits>(max_rows, vocab_size, inner_.threads());
}

void ShardedBackend::Upload(std::span<const float> host, Activation& x) { inner_.Upload(host, x); }
void ShardedBackend::Download(const Activation& x, std::span<float> host) {
  inner_.Download(x, host);
}
void ShardedBackend::Upload(const RoutingTable& table, Routing& routing) {
  inner_.Upload(table, routing);
}
void ShardedBackend::Download(const Routing& routing, RoutingTable& table) {
  inner_.Download(routing, table);
}

void ShardedBackend::BeginStep(const Batch& batch, KvPages& kv) {
  if (columns_.capacity < columns_capacity_) {
    columns_ = inner_.MakeActivation(1, columns_capacity_);
  }
  rows_ = batch.num_tokens();
  inner_.BeginStep(batch, kv);
}

void ShardedBackend::EndStep() { inner_.EndStep(); }

void ShardedBackend::GatherColumns(const float* mine, int64_t rows, int64_t cols, int64_t unit,
                                   std::span<float> full) {
  std::vector<int64_t> counts;
  for (int64_t r = 0; r < communicator_.size(); ++r) {
    counts.push_back(rows * ShareOf(cols, unit, r).size());
  }
  gathered_.resize(rows * cols);
  const int64_t my_count = counts[communicator_.rank()];
  communicator_.AllGather({mine, static_cast<size_t>(my_count)}, counts, gathered_);
  const float* from = gathered_.data();
  for (int64_t r = 0; r < communicator_.size(); ++r) {
    const Share share = ShareOf(cols, unit, r);
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(from, share.size(), full.data() + row * cols + share.first);
      from += share.size();
    }
  }
}

void ShardedBackend::GatherInto(const Activation& mine, int64_t rows, int64_t cols, int64_t unit,
                                Activation& full) {
  const int64_t width = MyShare(cols, unit).size();
  mine_.resize(rows * width);
  if (width > 0) inner_.Download(mine, mine_);
  full_.resize(rows * cols);
  GatherColumns(mine_.data(), rows, cols, unit, full_);
  full.Resize(rows, cols);
  inner_.Upload(full_, full);
}

template <typename Add>
void ShardedBackend::AddToColumns(Activation& x, const Add& add) {
  const Share share = MyShare(x.cols, kTile);
  if (share.size() > 0) {
    full_.resize(x.rows * x.cols);
    inner_.Download(x, full_);
    mine_.resize(x.rows * share.size());
    for (int64_t row = 0; row < x.rows; ++row) {
      std::copy_n(full_.data() + row * x.cols + share.first, share.size(),
                  mine_.data() + row * share.size());
    }
    columns_.Resize(x.rows, share.size());
    inner_.Upload(mine_, columns_);
    add(columns_);
  }
  GatherInto(columns_, x.rows, x.cols, kTile, x);
}

void ShardedBackend::Embed(const Weight& table, Activation& x) { inner_.Embed(*Mine(&table), x); }

void ShardedBackend::NormQkvRopeStore(const Activation& x, const AttentionShape& shape,
                                      const AttentionWeights& w, int64_t layer, Activation& normed,
                                      Activation& q) {
  const AttentionShape mine = MyHeads(shape);
  if (mine.num_heads == 0) return;
  inner_.NormQkvRopeStore(x, mine, Mine(w), layer, normed, q);
}

void ShardedBackend::Attention(const Activation& q, const AttentionShape& shape,
                               const AttentionWeights& w, int64_t layer, Activation& out) {
  const AttentionShape mine = MyHeads(shape);
  if (mine.num_heads > 0) inner_.Attention(q, mine, Mine(w), layer, columns_);
  const int64_t group = shape.num_heads / shape.num_kv_heads * shape.head_dim;
  GatherInto(columns_, rows_, shape.num_heads * shape.head_dim, group, out);
}

void ShardedBackend::ProjectResidual(const Activation& a, const AttentionWeights& w,
                                     Activation& x) {
  AddToColumns(x, [&](Activation& mine) { inner_.ProjectResidual(a, Mine(w), mine); });
}

void ShardedBackend::NormRoute(const Activation& x, const RouterShape& shape,
                               const RouterWeights& w, Activation& h, Routing& routing) {
  inner_.NormRoute(x, shape, {Mine(w.norm), Mine(w.router), Mine(w.correction)}, h, routing);
}

void ShardedBackend::RouteShared(const Activation& h, const Weight* gate, Routing& routing) {
  inner_.RouteShared(h, Mine(gate), routing);
}

void ShardedBackend::GateUp(const Activation& h, const Routing& routing, const ExpertWeights& w,
                            Activation& g) {
  inner_.Download(routing, table_);
  const ExpertWeights mine = Mine(w);
  if (mine.gate_up != nullptr) inner_.GateUp(h, routing, mine, columns_);
  GatherInto(columns_, table_.num_slots(), w.gate_up->rows(), kBlock, g);
}

void ShardedBackend::DownResidual(const Activation& g, const Routing& routing,
                                  const ExpertWeights& w, Activation& x) {
  AddToColumns(x, [&](Activation& mine) { inner_.DownResidual(g, routing, Mine(w), mine); });
}

void ShardedBackend::Head(const Activation& x, const HeadWeights& w, std::span<const int32_t> rows,
                          LogitRows& logits) {
  HostLogits& whole = static_cast<HostLogits&>(logits);
  const int64_t count = static_cast<int64_t>(rows.size());
  const Weight* const head = Mine(w.head);
  mine_.clear();
  if (head != nullptr) {
    inner_.Head(x, {Mine(w.norm), head, w.norm_eps}, rows, *my_logits_);
    mine_.resize(count * my_logits_->vocab_size());
    my_logits_->Read(0, mine_);
  }
  GatherColumns(mine_.data(), count, whole.vocab_size(), kTile, whole.Resize(count));
}

}  // namespace nibble
