#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/algebra/host_algebra.h"
#include "backend/cpu/kv_store.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/router.h"
#include "backend/host/host_data.h"
#include "backend/host/host_logits.h"
#include "backend/host/host_memory.h"
#include "base/check.h"
#include "base/system.h"
#include "nibble/error.h"

namespace nibble {

using cpu::CpuMatrix;
using cpu::CpuWeight;
using cpu::ForRows;
using cpu::LinearTask;
using cpu::Parallel;

namespace {

// Query rows (tokens times heads that share a KV head) that the attention kernel takes at once:
// enough to pay for copying keys and values out of their pages, few enough to stay in the cache.
constexpr int64_t kQueryRows = 96;

// Minimum number of attention tasks for each thread, if the context is long enough: evens out
// delays of single threads.
constexpr int64_t kTasksPerThread = 8;

const CpuMatrix& Part(const Weight* weight, int64_t part) {
  const auto* const cast = dynamic_cast<const CpuWeight*>(weight);
  NIBBLE_CHECK(cast != nullptr && part >= 0 && part < cast->num_parts());
  return cast->matrix(part);
}

// Part `part` of a weight, which has this shape and is there to be multiplied.
const CpuMatrix& Matrix(const Weight* weight, int64_t part, int64_t rows, int64_t cols) {
  const CpuMatrix& matrix = Part(weight, part);
  NIBBLE_CHECK(matrix.rows() == rows && matrix.cols() == cols);
  NIBBLE_CHECK(!std::holds_alternative<cpu::RowTable>(matrix.layout()));
  return matrix;
}

// The values of a vector of this size; null for a null weight.
const float* Vector(const Weight* weight, int64_t size, int64_t part = 0) {
  if (weight == nullptr) return nullptr;
  const CpuMatrix& vector = Part(weight, part);
  const auto* const table = std::get_if<cpu::RowTable>(&vector.layout());
  NIBBLE_CHECK(table != nullptr && table->dtype == DType::kF32);
  NIBBLE_CHECK(vector.rows() * vector.cols() == size);
  return static_cast<const float*>(table->values.data());
}

// out [num_rows, rows of the weight] = weight x.
LinearTask Product(const CpuMatrix& weight, const float* x, int64_t num_rows, float* out) {
  LinearTask task;
  task.weight = &weight;
  task.x = x;
  task.num_rows = num_rows;
  task.out = out;
  task.out_stride = weight.rows();
  return task;
}

// Tokens of a query block where so many heads share a KV head.
int64_t TokensPerBlock(int64_t heads) { return std::max<int64_t>(1, kQueryRows / heads); }

int ThreadCount(int asked) { return asked > 0 ? asked : AvailableThreads(); }

std::string Describe(const cpu::InstructionSet& set, int threads, int activation_bits) {
  return "cpu (" + std::string(set.title) + ", " + std::to_string(threads) +
         (threads == 1 ? " thread" : " threads") +
         (activation_bits == 8 ? ", int8 activations)" : ")");
}

int ActivationPlanes(int bits) {
  if (bits == 16 || bits == 8) return bits / 8;
  throw Error(ErrorCode::kInvalidArgument,
              "activations of " + std::to_string(bits) + " bits: expected 16 or 8");
}

}  // namespace

CpuBackend::CpuBackend(const BackendOptions& options)
    : requested_set_(cpu::RequestedInstructionSet(options.instruction_set)),
      set_(cpu::ChooseInstructionSet(requested_set_)),
      kernels_(*set_.kernels),
      pool_(ThreadCount(options.threads)),
      name_(Describe(set_, pool_.num_threads(), options.activation_bits)),
      linear_(kernels_, pool_, ActivationPlanes(options.activation_bits)),
      attention_scratch_(static_cast<size_t>(pool_.num_threads())) {}

CpuBackend::~CpuBackend() = default;

int64_t CpuBackend::FreeBytes() const { return AvailableMemoryBytes(); }

GptqAlgebra& CpuBackend::algebra() {
  if (!algebra_) algebra_ = MakeHostAlgebra(pool_, requested_set_);
  return *algebra_;
}

Activation CpuBackend::MakeActivation(int64_t capacity_rows, int64_t cols) {
  return HostActivation(capacity_rows, cols);
}

int64_t CpuBackend::KvBlockBytes(const KvShape& shape) const {
  return HostKvPages::BlockBytes(shape);
}

std::unique_ptr<KvPages> CpuBackend::MakeKvPages(const KvShape& shape, int64_t num_blocks) {
  return std::make_unique<HostKvPages>(shape, num_blocks);
}

std::unique_ptr<Routing> CpuBackend::MakeRouting(const RouterShape& /*shape*/,
                                                 int64_t /*max_tokens*/) {
  return std::make_unique<HostRouting>();
}

std::unique_ptr<LogitRows> CpuBackend::MakeLogitRows(int64_t max_rows, int64_t vocab_size) {
  return std::make_unique<HostLogits>(max_rows, vocab_size, pool_);
}

std::unique_ptr<Weight> CpuBackend::Prepare(std::span<const WeightView> parts, Role role,
                                            const PartCopied& copied) {
  std::vector<CpuMatrix> matrices;
  for (const WeightView& part : parts) {
    matrices.push_back(cpu::PrepareMatrix(part, role, pool_));
    copied(matrices.size() - 1);
  }
  return std::make_unique<CpuWeight>(std::move(matrices));
}

int64_t CpuBackend::WeightBytes(std::span<const WeightView> parts, Role role) const {
  int64_t bytes = 0;
  for (const WeightView& part : parts) bytes += weight_layout_.SizeBytes(part, role);
  return bytes;
}

void CpuBackend::Upload(std::span<const float> host, Activation& x) {
  NIBBLE_CHECK(static_cast<int64_t>(host.size()) == x.rows * x.cols);
  std::copy(host.begin(), host.end(), HostData(x));
}

void CpuBackend::Download(const Activation& x, std::span<float> host) {
  NIBBLE_CHECK(static_cast<int64_t>(host.size()) == x.rows * x.cols);
  std::copy_n(HostData(x), host.size(), host.begin());
}

void CpuBackend::Upload(const RoutingTable& table, Routing& routing) { HostTable(routing) = table; }

void CpuBackend::Download(const Routing& routing, RoutingTable& table) {
  table = HostTable(routing);
}

void CpuBackend::BeginStep(const Batch& batch, KvPages& kv) {
  NIBBLE_CHECK(batch_ == nullptr);
  NIBBLE_CHECK(batch.positions.size() == batch.tokens.size());
  NIBBLE_CHECK(static_cast<int64_t>(batch.starts.size()) == batch.num_sequences() + 1);
  NIBBLE_CHECK(batch.starts.front() == 0 && batch.starts.back() == batch.num_tokens());
  batch_ = &batch;
  kv_ = static_cast<HostKvPages*>(&kv);
  rope_.Reset();
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    const auto first = static_cast<size_t>(batch.starts[s]);
    const auto last = static_cast<size_t>(batch.starts[static_cast<size_t>(s) + 1]);
    NIBBLE_CHECK(first <= last);
    for (size_t t = first; t < last; ++t) {
      // The kernels count positions upwards from the first one of a sequence.
      NIBBLE_CHECK(batch.positions[t] == batch.positions[first] + static_cast<int32_t>(t - first));
    }
  }
}

void CpuBackend::EndStep() {
  batch_ = nullptr;
  kv_ = nullptr;
}

HostKvLayer CpuBackend::Pages(const AttentionShape& shape, int64_t layer) const {
  NIBBLE_CHECK(batch_ != nullptr);
  const HostKvLayer pages = kv_->layer(layer);
  NIBBLE_CHECK(pages.num_kv_heads == shape.num_kv_heads && pages.head_dim == shape.head_dim);
  return pages;
}

void CpuBackend::Embed(const Weight& table, Activation& x) {
  const CpuMatrix& matrix = Part(&table, 0);
  const auto* const rows = std::get_if<cpu::RowTable>(&matrix.layout());
  NIBBLE_CHECK(batch_ != nullptr && rows != nullptr);
  x.Resize(batch_->num_tokens(), matrix.cols());
  ForRows(pool_, x.rows, x.cols, [&](int64_t t) {
    const int32_t token = batch_->tokens[t];
    NIBBLE_CHECK(token >= 0 && token < matrix.rows());
    const TensorView row(static_cast<const std::byte*>(rows->values.data()) +
                             token * x.cols * DTypeSize(rows->dtype),
                         rows->dtype, Shape{x.cols});
    ToFloat(row, std::span(HostRow(x, t), static_cast<size_t>(x.cols)));
  });
}

// out[i] = RMSNorm(x[rows[i]]), or of row i if `rows` is null.
void CpuBackend::Normalise(const Activation& x, const int32_t* rows, int64_t num_rows,
                           const Weight* norm, float eps, float* out) {
  const float* const factors = Vector(norm, x.cols);
  NIBBLE_CHECK(factors != nullptr);
  ForRows(pool_, num_rows, x.cols, [&](int64_t i) {
    kernels_.rms_norm(HostRow(x, rows != nullptr ? rows[i] : i), factors, eps, x.cols,
                      out + i * x.cols);
  });
}

void CpuBackend::NormQkvRopeStore(const Activation& x, const AttentionShape& shape,
                                  const AttentionWeights& w, int64_t layer, Activation& normed,
                                  Activation& q) {
  const int64_t dim = shape.head_dim;
  const int64_t q_cols = shape.num_heads * dim;
  const int64_t kv_cols = shape.num_kv_heads * dim;
  const HostKvLayer kv = Pages(shape, layer);
  NIBBLE_CHECK(x.rows == batch_->num_tokens());
  NIBBLE_CHECK(2 * static_cast<int64_t>(shape.rotary.inverse_frequencies.size()) <= dim);
  normed.Resize(x.rows, x.cols);
  q.Resize(x.rows, q_cols);
  if (x.rows == 0) return;

  Normalise(x, nullptr, x.rows, w.norm, shape.norm_eps, HostData(normed));
  float* const k = keys_.Get<float>(x.rows * kv_cols);
  float* const v = values_.Get<float>(x.rows * kv_cols);
  const LinearTask tasks[] = {
      Product(Matrix(w.qkv, 0, q_cols, x.cols), HostData(normed), x.rows, HostData(q)),
      Product(Matrix(w.qkv, 1, kv_cols, x.cols), HostData(normed), x.rows, k),
      Product(Matrix(w.qkv, 2, kv_cols, x.cols), HostData(normed), x.rows, v)};
  linear_.Run(tasks);

  const float* const q_bias = Vector(w.qkv_bias, q_cols, 0);
  const float* const k_bias = Vector(w.qkv_bias, kv_cols, 1);
  const float* const v_bias = Vector(w.qkv_bias, kv_cols, 2);
  const float* const q_norm = Vector(w.q_norm, dim);
  const float* const k_norm = Vector(w.k_norm, dim);
  const auto norm_heads = [&](float* heads, int64_t num_heads, const float* norm) {
    for (int64_t head = 0; norm != nullptr && head < num_heads; ++head) {
      kernels_.rms_norm(heads + head * dim, norm, shape.norm_eps, dim, heads + head * dim);
    }
  };
  rope_.Prepare(batch_->positions, shape.rotary);
  // The keys of 16 tokens share cache lines of a page: one thread writes them all, against false
  // sharing.
  page_runs_.clear();
  for (int64_t s = 0; s < batch_->num_sequences(); ++s) {
    const int64_t end = batch_->starts[static_cast<size_t>(s) + 1];
    for (int64_t t = batch_->starts[s]; t < end;) {
      const int64_t slot = batch_->positions[t] % kv.block_size;
      const int64_t count = std::min({end - t, kv.block_size - slot, 16 - slot % 16});
      page_runs_.push_back({s, t, count});
      t += count;
    }
  }
  Parallel(pool_, static_cast<int64_t>(page_runs_.size()), [&](int64_t index, int) {
    const TokenRun& run = page_runs_[index];
    const int64_t first = batch_->positions[run.first];
    const int64_t block = batch_->blocks(run.sequence)[first / kv.block_size];
    NIBBLE_CHECK(block >= 0 && block < kv.num_blocks);
    for (int64_t t = run.first; t < run.first + run.count; ++t) {
      float* const queries = HostRow(q, t);
      float* const key = k + t * kv_cols;
      float* const value = v + t * kv_cols;
      if (q_bias != nullptr) {
        kernels_.accumulate(q_bias, 1.0f, q_cols, queries);
        kernels_.accumulate(k_bias, 1.0f, kv_cols, key);
        kernels_.accumulate(v_bias, 1.0f, kv_cols, value);
      }
      norm_heads(queries, shape.num_heads, q_norm);
      norm_heads(key, shape.num_kv_heads, k_norm);
      const float* const cosines = rope_.cosines(t);
      const float* const sines = rope_.sines(t);
      kernels_.rotate(queries, shape.num_heads, dim, rope_.half(), cosines, sines);
      kernels_.rotate(key, shape.num_kv_heads, dim, rope_.half(), cosines, sines);
      cpu::StoreKeyValue(kv, block, first % kv.block_size + t - run.first, key, value);
    }
  });
}

// Cuts the attention of a step into tasks: query_blocks_, attention_tasks_ and divided_. `heads`
// query heads share a KV head.
void CpuBackend::CutAttention(const HostKvLayer& kv, int64_t heads, int64_t window) {
  const int64_t tokens_per_block = TokensPerBlock(heads);
  query_blocks_.clear();
  int64_t num_spans = 0;
  for (int64_t s = 0; s < batch_->num_sequences(); ++s) {
    const int64_t end = batch_->starts[static_cast<size_t>(s) + 1];
    for (int64_t t = batch_->starts[s]; t < end; t += tokens_per_block) {
      QueryBlock& queries = query_blocks_.emplace_back();
      queries.tokens = {s, t, std::min(tokens_per_block, end - t)};
      const int64_t position = batch_->positions[t];
      const int64_t oldest = std::max<int64_t>(0, position + 1 - window);
      queries.first_span = window > 0 ? oldest / cpu::kKeySpan : 0;
      queries.last_span = (position + queries.tokens.count - 1) / cpu::kKeySpan + 1;
      num_spans += queries.last_span - queries.first_span;
    }
  }

  // A task is a query block and a head, with all spans of the context if there are enough of them
  // for the threads. Otherwise the context is divided too. The last blocks of a prompt see the most
  // keys: they go first, for load balance.
  const auto num_blocks = static_cast<int64_t>(query_blocks_.size());
  const int64_t wanted = pool_.num_threads() > 1 ? kTasksPerThread * pool_.num_threads() : 1;
  const bool divide = num_blocks * kv.num_kv_heads < wanted;
  const int64_t spans_per_task =
      divide ? std::max<int64_t>(1, num_spans * kv.num_kv_heads / wanted) : num_spans;
  attention_tasks_.clear();
  divided_.clear();
  partial_floats_ = 0;
  for (int64_t b = num_blocks - 1; b >= 0; --b) {
    const QueryBlock& queries = query_blocks_[b];
    const int64_t spans = queries.last_span - queries.first_span;
    const int64_t floats_per_span =
        cpu::AttentionPartialFloats(queries.tokens.count * heads, kv.head_dim);
    for (int64_t head = 0; head < kv.num_kv_heads; ++head) {
      AttentionTask task{b, head, queries.first_span, queries.last_span, -1};
      if (spans <= spans_per_task) {
        attention_tasks_.push_back(task);
        continue;
      }
      task.partials = partial_floats_;
      divided_.push_back(task);
      for (int64_t first = queries.first_span; first < queries.last_span; first += spans_per_task) {
        task.first_span = first;
        task.last_span = std::min(first + spans_per_task, queries.last_span);
        task.partials = partial_floats_ + (first - queries.first_span) * floats_per_span;
        attention_tasks_.push_back(task);
      }
      partial_floats_ += spans * floats_per_span;
    }
  }
}

void CpuBackend::Attention(const Activation& q, const AttentionShape& shape,
                           const AttentionWeights& w, int64_t layer, Activation& out) {
  const HostKvLayer kv = Pages(shape, layer);
  NIBBLE_CHECK(q.rows == batch_->num_tokens() && q.cols == shape.num_heads * kv.head_dim);
  NIBBLE_CHECK(shape.num_heads % kv.num_kv_heads == 0);
  out.Resize(q.rows, q.cols);
  const int64_t heads = shape.num_heads / kv.num_kv_heads;  // that share a KV head
  CutAttention(kv, heads, shape.sliding_window);
  const float scale =
      shape.scale != 0 ? shape.scale : 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const float* const sinks = Vector(w.sinks, shape.num_heads);
  const int64_t scratch_floats =
      cpu::AttentionScratchFloats(TokensPerBlock(heads) * heads, kv.head_dim);
  for (auto& scratch : attention_scratch_) scratch.Get<float>(scratch_floats);
  float* const partials = attention_partials_.Get<float>(partial_floats_);

  const auto make = [&](const AttentionTask& task, int thread) {
    const QueryBlock& queries = query_blocks_[task.query_block];
    const int64_t offset = queries.tokens.first * q.cols + task.head * heads * kv.head_dim;
    cpu::AttentionBlock block{};
    block.q = HostData(q) + offset;
    block.out = HostData(out) + offset;
    block.stride = q.cols;
    block.num_tokens = queries.tokens.count;
    block.heads_per_kv_head = heads;
    block.head_dim = kv.head_dim;
    block.scale = scale;
    block.sinks = sinks != nullptr ? sinks + task.head * heads : nullptr;
    block.first_position = batch_->positions[queries.tokens.first];
    block.sliding_window = shape.sliding_window;
    block.blocks = batch_->blocks(queries.tokens.sequence).data();
    block.block_size = kv.block_size;
    block.pages = static_cast<const char*>(kv.data);
    block.type = kv.dtype == DType::kF32    ? cpu::PageType::kFloat
                 : kv.dtype == DType::kBF16 ? cpu::PageType::kBf16
                                            : cpu::PageType::kInt8;
    block.block_bytes = kv.bytes_per_block();
    block.key_part = kv.key_part(task.head);
    block.value_part = kv.value_part(task.head);
    block.first_span = task.first_span;
    block.last_span = task.last_span;
    block.partials = task.partials >= 0 ? partials + task.partials : nullptr;
    block.scratch = attention_scratch_[thread].Get<float>(scratch_floats);
    return block;
  };
  Parallel(pool_, static_cast<int64_t>(attention_tasks_.size()), [&](int64_t index, int thread) {
    kernels_.attend(make(attention_tasks_[index], thread));
  });
  Parallel(pool_, static_cast<int64_t>(divided_.size()),
           [&](int64_t index, int thread) { kernels_.fold_spans(make(divided_[index], thread)); });
}

void CpuBackend::ProjectResidual(const Activation& a, const AttentionWeights& w, Activation& x) {
  NIBBLE_CHECK(a.rows == x.rows);
  if (x.rows == 0) return;
  LinearTask task = Product(Matrix(w.out, 0, x.cols, a.cols), HostData(a), a.rows, HostData(x));
  task.then = LinearTask::Then::kAdd;
  linear_.Run({&task, 1});
  if (const float* const bias = Vector(w.out_bias, x.cols)) {
    ForRows(pool_, x.rows, x.cols,
            [&](int64_t t) { kernels_.accumulate(bias, 1.0f, x.cols, HostRow(x, t)); });
  }
}

void CpuBackend::NormRoute(const Activation& x, const RouterShape& shape, const RouterWeights& w,
                           Activation& h, Routing& routing) {
  h.Resize(x.rows, x.cols);
  if (x.rows > 0) Normalise(x, nullptr, x.rows, w.norm, shape.norm_eps, HostData(h));
  RoutingTable& table = HostTable(routing);
  if (shape.dense()) return table.SelectAll(x.rows);

  NIBBLE_CHECK(shape.top_k >= 1 && shape.top_k <= shape.num_experts);
  const auto tokens = static_cast<size_t>(x.rows);
  const auto experts = static_cast<size_t>(shape.num_experts);
  const auto top_k = static_cast<size_t>(shape.top_k);
  table.num_tokens = x.rows;
  table.num_experts = shape.num_experts;
  table.top_k = shape.top_k;
  table.experts.resize(tokens * top_k);
  table.weights.resize(tokens * top_k);
  table.logits.resize(tokens * experts);
  if (x.rows > 0) {
    const LinearTask task = Product(Matrix(w.router, 0, shape.num_experts, x.cols), HostData(h),
                                    h.rows, table.logits.data());
    linear_.Run({&task, 1});
  }
  const float* const correction = Vector(w.correction, shape.num_experts);
  expert_scores_.resize(experts);
  for (size_t t = 0; t < tokens; ++t) {
    cpu::ChooseExperts(shape, std::span(table.logits).subspan(t * experts, experts), correction,
                       expert_scores_, std::span(table.experts).subspan(t * top_k, top_k),
                       std::span(table.weights).subspan(t * top_k, top_k));
  }
  table.GroupByExpert(0, shape.num_experts);
}

void CpuBackend::RouteShared(const Activation& h, const Weight* gate, Routing& routing) {
  RoutingTable& table = HostTable(routing);
  table.SelectAll(h.rows);
  if (gate == nullptr || h.rows == 0) return;
  const LinearTask task =
      Product(Matrix(gate, 0, 1, h.cols), HostData(h), h.rows, table.weights.data());
  linear_.Run({&task, 1});
  for (size_t t = 0; t < table.weights.size(); ++t) {
    table.weights[t] = 1.0f / (1.0f + std::exp(-table.weights[t]));
    table.slot_weights[t] = table.weights[t];
  }
}

void CpuBackend::GateUp(const Activation& h, const Routing& routing, const ExpertWeights& w,
                        Activation& g) {
  const RoutingTable& table = HostTable(routing);
  const int64_t middle = w.gate_up->rows();
  g.Resize(table.num_slots(), middle);
  tasks_.clear();
  for (int64_t expert = 0; expert < table.num_experts; ++expert) {
    const int64_t first = table.expert_starts[expert];
    const int64_t count = table.expert_starts[static_cast<size_t>(expert) + 1] - first;
    if (count == 0) continue;
    const int64_t part = 2 * (expert - w.first_expert);
    LinearTask task =
        Product(Matrix(w.gate_up, part, middle, h.cols), HostData(h), count, HostRow(g, first));
    task.second = &Matrix(w.gate_up, part + 1, middle, h.cols);
    task.rows = table.slot_tokens.data() + first;
    task.then = LinearTask::Then::kSiluTimes;
    tasks_.push_back(task);
  }
  for (const int32_t token : table.slot_tokens) NIBBLE_CHECK(token >= 0 && token < h.rows);
  linear_.Run(tasks_);
}

void CpuBackend::DownResidual(const Activation& g, const Routing& routing, const ExpertWeights& w,
                              Activation& x) {
  const RoutingTable& table = HostTable(routing);
  const int64_t num_slots = table.num_slots();
  NIBBLE_CHECK(g.rows == num_slots);
  float* const results = slot_results_.Get<float>(num_slots * x.cols);
  tasks_.clear();
  for (int64_t expert = 0; expert < table.num_experts; ++expert) {
    const int64_t first = table.expert_starts[expert];
    const int64_t count = table.expert_starts[static_cast<size_t>(expert) + 1] - first;
    if (count == 0) continue;
    tasks_.push_back(Product(Matrix(w.down, expert - w.first_expert, x.cols, g.cols),
                             HostRow(g, first), count, results + first * x.cols));
  }
  linear_.Run(tasks_);

  // Slots come grouped by expert; a counting sort that keeps their order groups them by token.
  slot_starts_.assign(static_cast<size_t>(x.rows) + 1, 0);
  slots_by_token_.resize(num_slots);
  for (const int32_t token : table.slot_tokens) {
    NIBBLE_CHECK(token >= 0 && token < x.rows);
    ++slot_starts_[static_cast<size_t>(token) + 1];
  }
  for (size_t t = 1; t < slot_starts_.size(); ++t) slot_starts_[t] += slot_starts_[t - 1];
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    const auto token = static_cast<size_t>(table.slot_tokens[slot]);
    slots_by_token_[slot_starts_[token]++] = static_cast<int32_t>(slot);
  }
  ForRows(pool_, x.rows, 4 * x.cols, [&](int64_t t) {
    // Filling has advanced every start to that of its successor.
    const int32_t begin = t == 0 ? 0 : slot_starts_[static_cast<size_t>(t) - 1];
    for (int32_t i = begin; i < slot_starts_[t]; ++i) {
      const int64_t slot = slots_by_token_[i];
      kernels_.accumulate(results + slot * x.cols, table.slot_weights[slot], x.cols, HostRow(x, t));
    }
  });
}

void CpuBackend::Head(const Activation& x, const HeadWeights& w, std::span<const int32_t> rows,
                      LogitRows& logits) {
  const auto num_rows = static_cast<int64_t>(rows.size());
  HostLogits& host = static_cast<HostLogits&>(logits);
  const CpuMatrix& head = Matrix(w.head, 0, host.vocab_size(), x.cols);
  for (const int32_t row : rows) NIBBLE_CHECK(row >= 0 && row < x.rows);
  const std::span<float> out = host.Resize(num_rows);
  if (num_rows == 0) return;
  float* const normed = normed_.Get<float>(num_rows * x.cols);
  Normalise(x, rows.data(), num_rows, w.norm, w.norm_eps, normed);
  const LinearTask task = Product(head, normed, num_rows, out.data());
  linear_.Run({&task, 1});
}

}  // namespace nibble
