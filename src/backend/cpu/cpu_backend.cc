#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/algebra/host_algebra.h"
#include "backend/cpu/kv_store.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/router.h"
#include "base/check.h"
#include "base/float16.h"
#include "nibble/error.h"

namespace nibble {

using cpu::CpuWeight;
using cpu::ForRows;
using cpu::LinearTask;
using cpu::Parallel;

namespace {

// Query rows (tokens times heads that share a KV head) that the attention kernel takes at once:
// enough to pay for copying keys and values out of their pages, few enough to stay in the cache.
constexpr int64_t kQueryRows = 96;

// Pieces of attention for each thread, at least, if the context is long enough: so that threads
// that are held up a little end together.
constexpr int64_t kTasksPerThread = 8;

const CpuWeight& Cast(const Weight* weight) {
  const auto* const cast = dynamic_cast<const CpuWeight*>(weight);
  NIBBLE_CHECK(cast != nullptr);
  return *cast;
}

const CpuWeight& CastMatrix(const Weight* weight, int64_t rows, int64_t cols) {
  const CpuWeight& matrix = Cast(weight);
  NIBBLE_CHECK(matrix.rows() == rows && matrix.cols() == cols);
  NIBBLE_CHECK(!std::holds_alternative<cpu::RowTable>(matrix.layout()));
  return matrix;
}

// Sets the shape of an output, within the capacity it was made with.
void Resize(Activation& x, int64_t rows, int64_t cols) {
  NIBBLE_CHECK(x.cols == cols && rows <= x.capacity_rows());
  x.rows = rows;
}

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
    : set_(cpu::ChooseInstructionSet(options.instruction_set)),
      kernels_(*set_.kernels),
      pool_(ThreadCount(options.threads)),
      name_(Describe(set_, pool_.num_threads(), options.activation_bits)),
      linear_(kernels_, pool_, ActivationPlanes(options.activation_bits)),
      attention_scratch_(static_cast<size_t>(pool_.num_threads())) {}

CpuBackend::~CpuBackend() = default;

Linalg& CpuBackend::linalg() {
  if (!linalg_) linalg_ = MakeOpenBlasLinalg(pool_);
  return *linalg_;
}

Buffer CpuBackend::Allocate(int64_t bytes) { return cpu::AllocateHostMemory(bytes); }

std::unique_ptr<Weight> CpuBackend::Prepare(const WeightView& weight, Role role) {
  return cpu::PrepareWeight(weight, role, pool_);
}

void CpuBackend::Upload(std::span<const float> host, Activation& x) {
  NIBBLE_CHECK(static_cast<int64_t>(host.size()) == x.rows * x.cols);
  std::copy(host.begin(), host.end(), x.data());
}

void CpuBackend::Download(const Activation& x, std::span<float> host) {
  NIBBLE_CHECK(static_cast<int64_t>(host.size()) == x.rows * x.cols);
  std::copy_n(x.data(), host.size(), host.begin());
}

void CpuBackend::BeginStep(const Batch& batch) {
  NIBBLE_CHECK(batch_ == nullptr);
  NIBBLE_CHECK(batch.positions.size() == batch.tokens.size());
  NIBBLE_CHECK(static_cast<int64_t>(batch.starts.size()) == batch.num_sequences() + 1);
  NIBBLE_CHECK(batch.starts.front() == 0 && batch.starts.back() == batch.num_tokens());
  batch_ = &batch;
  rope_.Reset();
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    const auto first = static_cast<size_t>(batch.starts[static_cast<size_t>(s)]);
    const auto last = static_cast<size_t>(batch.starts[static_cast<size_t>(s) + 1]);
    NIBBLE_CHECK(first <= last);
    for (size_t t = first; t < last; ++t) {
      // The kernels count positions upwards from the first one of a sequence.
      NIBBLE_CHECK(batch.positions[t] == batch.positions[first] + static_cast<int32_t>(t - first));
    }
  }
}

void CpuBackend::EndStep() { batch_ = nullptr; }

void CpuBackend::Embed(const Weight& table, Activation& x) {
  const CpuWeight& weight = Cast(&table);
  const auto* const rows = std::get_if<cpu::RowTable>(&weight.layout());
  NIBBLE_CHECK(batch_ != nullptr && rows != nullptr);
  Resize(x, batch_->num_tokens(), weight.cols());
  ForRows(pool_, x.rows, x.cols, [&](int64_t t) {
    const int32_t token = batch_->tokens[static_cast<size_t>(t)];
    NIBBLE_CHECK(token >= 0 && token < weight.rows());
    const TensorView row(static_cast<const std::byte*>(rows->values.data()) +
                             token * x.cols * DTypeSize(rows->dtype),
                         rows->dtype, Shape{x.cols});
    ToFloat(row, std::span(x.row(t), static_cast<size_t>(x.cols)));
  });
}

// out[i] = RMSNorm(x[rows[i]]), or of row i if `rows` is null.
void CpuBackend::Normalise(const float* x, const int32_t* rows, int64_t num_rows, int64_t cols,
                           const Weight* norm, float eps, float* out) {
  const CpuWeight& weight = Cast(norm);
  const auto* const table = std::get_if<cpu::RowTable>(&weight.layout());
  NIBBLE_CHECK(table != nullptr && table->dtype == DType::kF32);
  NIBBLE_CHECK(weight.rows() == 1 && weight.cols() == cols);
  const auto* const factors = static_cast<const float*>(table->values.data());
  ForRows(pool_, num_rows, cols, [&](int64_t i) {
    const int64_t row = rows != nullptr ? rows[i] : i;
    kernels_.rms_norm(x + row * cols, factors, eps, cols, out + i * cols);
  });
}

void CpuBackend::NormQkvRopeStore(const Activation& x, const AttentionWeights& w, KvPages kv,
                                  Activation& normed, Activation& q) {
  const int64_t q_cols = w.num_heads * w.head_dim;
  const int64_t kv_cols = w.num_kv_heads * w.head_dim;
  NIBBLE_CHECK(batch_ != nullptr && x.rows == batch_->num_tokens());
  NIBBLE_CHECK(kv.num_kv_heads == w.num_kv_heads && kv.head_dim == w.head_dim);
  NIBBLE_CHECK(kv.dtype == DType::kF32 || kv.dtype == DType::kBF16 || kv.dtype == DType::kI8);
  NIBBLE_CHECK(w.head_dim % 2 == 0);
  NIBBLE_CHECK(static_cast<int64_t>(w.inverse_frequencies.size()) == w.head_dim / 2);
  Resize(normed, x.rows, x.cols);
  Resize(q, x.rows, q_cols);
  if (x.rows == 0) return;

  Normalise(x.data(), nullptr, x.rows, x.cols, w.norm, w.norm_eps, normed.data());
  float* const k = keys_.Get<float>(x.rows * kv_cols);
  float* const v = values_.Get<float>(x.rows * kv_cols);
  const auto task = [&](const Weight* weight, float* out, int64_t cols) {
    LinearTask result;
    result.weight = &CastMatrix(weight, cols, x.cols);
    result.x = normed.data();
    result.num_rows = x.rows;
    result.out = out;
    result.out_stride = cols;
    return result;
  };
  const LinearTask tasks[] = {task(w.q, q.data(), q_cols), task(w.k, k, kv_cols),
                              task(w.v, v, kv_cols)};
  linear_.Run(tasks);

  rope_.Prepare(batch_->positions, w.inverse_frequencies);
  // Keys of 16 tokens share the lines of a page: tokens that do are left to one thread.
  page_runs_.clear();
  for (int64_t s = 0; s < batch_->num_sequences(); ++s) {
    const int64_t end = batch_->starts[static_cast<size_t>(s) + 1];
    for (int64_t t = batch_->starts[static_cast<size_t>(s)]; t < end;) {
      const int64_t slot = batch_->positions[static_cast<size_t>(t)] % kv.block_size;
      const int64_t count = std::min({end - t, kv.block_size - slot, 16 - slot % 16});
      page_runs_.push_back({s, t, count});
      t += count;
    }
  }
  Parallel(pool_, static_cast<int64_t>(page_runs_.size()), [&](int64_t index, int) {
    const TokenRun& run = page_runs_[static_cast<size_t>(index)];
    const int64_t first = batch_->positions[static_cast<size_t>(run.first)];
    const int64_t block = batch_->blocks(run.sequence)[static_cast<size_t>(first / kv.block_size)];
    NIBBLE_CHECK(block >= 0 && block < kv.num_blocks);
    for (int64_t t = run.first; t < run.first + run.count; ++t) {
      const float* const cosines = rope_.cosines(t);
      const float* const sines = rope_.sines(t);
      kernels_.rotate(q.row(t), w.num_heads, w.head_dim, cosines, sines);
      kernels_.rotate(k + t * kv_cols, w.num_kv_heads, w.head_dim, cosines, sines);
      const int64_t slot = first % kv.block_size + t - run.first;
      cpu::StoreKeyValue(kv, block, slot, k + t * kv_cols, v + t * kv_cols);
    }
  });
}

void CpuBackend::Attention(const Activation& q, KvPages kv, int64_t sliding_window,
                           Activation& out) {
  NIBBLE_CHECK(batch_ != nullptr && q.rows == batch_->num_tokens());
  NIBBLE_CHECK(q.cols % (kv.num_kv_heads * kv.head_dim) == 0);
  Resize(out, q.rows, q.cols);
  const int64_t heads = q.cols / kv.head_dim / kv.num_kv_heads;  // that share a KV head
  const int64_t tokens_per_block = std::max<int64_t>(1, kQueryRows / heads);

  query_blocks_.clear();
  int64_t num_spans = 0;
  for (int64_t s = 0; s < batch_->num_sequences(); ++s) {
    const int64_t end = batch_->starts[static_cast<size_t>(s) + 1];
    for (int64_t t = batch_->starts[static_cast<size_t>(s)]; t < end; t += tokens_per_block) {
      QueryBlock& queries = query_blocks_.emplace_back();
      queries.tokens = {s, t, std::min(tokens_per_block, end - t)};
      const int64_t position = batch_->positions[static_cast<size_t>(t)];
      const int64_t oldest = std::max<int64_t>(0, position + 1 - sliding_window);
      queries.first_span = sliding_window > 0 ? oldest / cpu::kKeySpan : 0;
      queries.last_span = (position + queries.tokens.count - 1) / cpu::kKeySpan + 1;
      num_spans += queries.last_span - queries.first_span;
    }
  }

  // A task is a query block and a head, with all spans of the context if there are enough of them
  // for the threads. Otherwise the context is divided too. The last blocks of a prompt see the most
  // keys: they go first, so that no thread starts on one when the others are done.
  const auto num_blocks = static_cast<int64_t>(query_blocks_.size());
  const int64_t wanted = pool_.num_threads() > 1 ? kTasksPerThread * pool_.num_threads() : 1;
  const bool divide = num_blocks * kv.num_kv_heads < wanted;
  const int64_t spans_per_task =
      divide ? std::max<int64_t>(1, num_spans * kv.num_kv_heads / wanted) : num_spans;
  attention_tasks_.clear();
  divided_.clear();
  int64_t partial_floats = 0;
  for (int64_t b = num_blocks - 1; b >= 0; --b) {
    const QueryBlock& queries = query_blocks_[static_cast<size_t>(b)];
    const int64_t spans = queries.last_span - queries.first_span;
    const int64_t floats_per_span =
        cpu::AttentionPartialFloats(queries.tokens.count * heads, kv.head_dim);
    for (int64_t head = 0; head < kv.num_kv_heads; ++head) {
      AttentionTask task{b, head, queries.first_span, queries.last_span, -1};
      if (spans <= spans_per_task) {
        attention_tasks_.push_back(task);
        continue;
      }
      task.partials = partial_floats;
      divided_.push_back(task);
      for (int64_t first = queries.first_span; first < queries.last_span; first += spans_per_task) {
        task.first_span = first;
        task.last_span = std::min(first + spans_per_task, queries.last_span);
        task.partials = partial_floats + (first - queries.first_span) * floats_per_span;
        attention_tasks_.push_back(task);
      }
      partial_floats += spans * floats_per_span;
    }
  }
  const int64_t scratch_floats = cpu::AttentionScratchFloats(tokens_per_block * heads, kv.head_dim);
  for (auto& scratch : attention_scratch_) scratch.Get<float>(scratch_floats);
  float* const partials = attention_partials_.Get<float>(partial_floats);

  const auto make = [&](const AttentionTask& task, int thread) {
    const QueryBlock& queries = query_blocks_[static_cast<size_t>(task.query_block)];
    const int64_t offset = queries.tokens.first * q.cols + task.head * heads * kv.head_dim;
    cpu::AttentionBlock block{};
    block.q = q.data() + offset;
    block.out = out.data() + offset;
    block.stride = q.cols;
    block.num_tokens = queries.tokens.count;
    block.heads_per_kv_head = heads;
    block.head_dim = kv.head_dim;
    block.first_position = batch_->positions[static_cast<size_t>(queries.tokens.first)];
    block.sliding_window = sliding_window;
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
    block.scratch = attention_scratch_[static_cast<size_t>(thread)].Get<float>(scratch_floats);
    return block;
  };
  Parallel(pool_, static_cast<int64_t>(attention_tasks_.size()), [&](int64_t index, int thread) {
    kernels_.attend(make(attention_tasks_[static_cast<size_t>(index)], thread));
  });
  Parallel(pool_, static_cast<int64_t>(divided_.size()), [&](int64_t index, int thread) {
    kernels_.fold_spans(make(divided_[static_cast<size_t>(index)], thread));
  });
}

void CpuBackend::ProjectResidual(const Activation& a, const Weight& o, Activation& x) {
  NIBBLE_CHECK(a.rows == x.rows);
  if (x.rows == 0) return;
  LinearTask task;
  task.weight = &CastMatrix(&o, x.cols, a.cols);
  task.x = a.data();
  task.num_rows = a.rows;
  task.out = x.data();
  task.out_stride = x.cols;
  task.then = LinearTask::Then::kAdd;
  linear_.Run({&task, 1});
}

void CpuBackend::NormRoute(const Activation& x, const RouterWeights& w, Activation& h,
                           Routing& routing) {
  NIBBLE_CHECK(w.router != nullptr);
  const int64_t num_experts = w.router->rows();
  NIBBLE_CHECK(w.top_k >= 1 && w.top_k <= num_experts);
  Resize(h, x.rows, x.cols);
  routing.num_tokens = x.rows;
  routing.num_experts = num_experts;
  routing.top_k = w.top_k;
  routing.experts.resize(static_cast<size_t>(x.rows * w.top_k));
  routing.weights.resize(static_cast<size_t>(x.rows * w.top_k));
  routing.logits.resize(static_cast<size_t>(x.rows * num_experts));
  if (x.rows > 0) {
    Normalise(x.data(), nullptr, x.rows, x.cols, w.norm, w.norm_eps, h.data());
    LinearTask task;
    task.weight = &CastMatrix(w.router, num_experts, x.cols);
    task.x = h.data();
    task.num_rows = h.rows;
    task.out = routing.logits.data();
    task.out_stride = num_experts;
    linear_.Run({&task, 1});
  }
  const auto experts = static_cast<size_t>(num_experts);
  const auto top_k = static_cast<size_t>(w.top_k);
  for (size_t t = 0; t < static_cast<size_t>(x.rows); ++t) {
    cpu::ChooseExperts(std::span(routing.logits).subspan(t * experts, experts),
                       std::span(routing.experts).subspan(t * top_k, top_k),
                       std::span(routing.weights).subspan(t * top_k, top_k));
  }
  routing.GroupByExpert(0, num_experts);
}

void CpuBackend::ExpertsGateUp(const Activation& h, const Routing& routing, const ExpertWeights& w,
                               Activation& g) {
  Resize(g, routing.num_slots(), g.cols);
  tasks_.clear();
  for (size_t e = 0; e < static_cast<size_t>(routing.num_experts); ++e) {
    const int64_t first = routing.expert_starts[e];
    const int64_t count = routing.expert_starts[e + 1] - first;
    if (count == 0) continue;
    LinearTask task;
    task.weight = &CastMatrix(w.gate[e], g.cols, h.cols);
    task.second = &CastMatrix(w.up[e], g.cols, h.cols);
    task.x = h.data();
    task.rows = routing.slot_tokens.data() + first;
    task.num_rows = count;
    task.out = g.row(first);
    task.out_stride = g.cols;
    task.then = LinearTask::Then::kSiluTimes;
    tasks_.push_back(task);
  }
  for (const int32_t token : routing.slot_tokens) NIBBLE_CHECK(token >= 0 && token < h.rows);
  linear_.Run(tasks_);
}

void CpuBackend::ExpertsDownResidual(const Activation& g, const Routing& routing,
                                     const ExpertWeights& w, Activation& x) {
  const int64_t num_slots = routing.num_slots();
  NIBBLE_CHECK(g.rows == num_slots);
  float* const results = slot_results_.Get<float>(num_slots * x.cols);
  tasks_.clear();
  for (size_t e = 0; e < static_cast<size_t>(routing.num_experts); ++e) {
    const int64_t first = routing.expert_starts[e];
    const int64_t count = routing.expert_starts[e + 1] - first;
    if (count == 0) continue;
    LinearTask task;
    task.weight = &CastMatrix(w.down[e], x.cols, g.cols);
    task.x = g.row(first);
    task.num_rows = count;
    task.out = results + first * x.cols;
    task.out_stride = x.cols;
    tasks_.push_back(task);
  }
  linear_.Run(tasks_);

  // Slots come grouped by expert; a counting sort that keeps their order groups them by token.
  slot_starts_.assign(static_cast<size_t>(x.rows) + 1, 0);
  slots_by_token_.resize(static_cast<size_t>(num_slots));
  for (const int32_t token : routing.slot_tokens) {
    NIBBLE_CHECK(token >= 0 && token < x.rows);
    ++slot_starts_[static_cast<size_t>(token) + 1];
  }
  for (size_t t = 1; t < slot_starts_.size(); ++t) slot_starts_[t] += slot_starts_[t - 1];
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    const auto token = static_cast<size_t>(routing.slot_tokens[static_cast<size_t>(slot)]);
    slots_by_token_[static_cast<size_t>(slot_starts_[token]++)] = static_cast<int32_t>(slot);
  }
  ForRows(pool_, x.rows, 4 * x.cols, [&](int64_t t) {
    // Filling moved every start to the start of its successor.
    const int32_t begin = t == 0 ? 0 : slot_starts_[static_cast<size_t>(t) - 1];
    for (int32_t i = begin; i < slot_starts_[static_cast<size_t>(t)]; ++i) {
      const int64_t slot = slots_by_token_[static_cast<size_t>(i)];
      kernels_.accumulate(results + slot * x.cols, routing.slot_weights[static_cast<size_t>(slot)],
                          x.cols, x.row(t));
    }
  });
}

void CpuBackend::Logits(const Activation& x, const HeadWeights& w, std::span<const int32_t> rows,
                        std::span<float> out) {
  const auto num_rows = static_cast<int64_t>(rows.size());
  const CpuWeight& head = CastMatrix(w.head, w.head->rows(), x.cols);
  NIBBLE_CHECK(static_cast<int64_t>(out.size()) == num_rows * head.rows());
  for (const int32_t row : rows) NIBBLE_CHECK(row >= 0 && row < x.rows);
  if (num_rows == 0) return;
  float* const normed = normed_.Get<float>(num_rows * x.cols);
  Normalise(x.data(), rows.data(), num_rows, x.cols, w.norm, w.norm_eps, normed);
  LinearTask task;
  task.weight = &head;
  task.x = normed;
  task.num_rows = num_rows;
  task.out = out.data();
  task.out_stride = head.rows();
  linear_.Run({&task, 1});
}

}  // namespace nibble
